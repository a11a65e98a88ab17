"""Small models of open_clip, of every kind that fits: the shapes of the kind, few layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import timm
import torch
from torch import Tensor, nn

from training.clip_arch import arch_config
from training.clip_config import ClipConfig

KINDS = {
    "layer scale": "ViT-M-16-alt",
    "MetaCLIP 2": "ViT-H-14-worldwide-quickgelu",
    "CLIPA": "ViT-L-14-CLIPA",
    "MobileCLIP2-L": "MobileCLIP2-L-14",
    "EVA01": "EVA01-g-14",
    "SigLIP": "ViT-B-16-SigLIP",
    "SigLIP 2": "ViT-B-16-SigLIP2",
    "SigLIP 2, tanh": "ViT-B-32-SigLIP2-256",
    "PE-Core": "PE-Core-B-16",
    "PE-Core-G": "PE-Core-bigG-14-448",
}
"""An architecture of each kind."""

WIDTH, LAYERS, VOCABULARY, GRID = 64, 3, 320, 3


def shrink(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[Any, ClipConfig]]:
    """Make every architecture of open_clip a small one; return what builds it and its sizes."""
    real_config, real_create = open_clip.get_model_config, timm.create_model

    def config(name: str) -> dict[str, Any] | None:
        found = copy.deepcopy(real_config(name))
        if found is None:
            return None
        vision, text = found["vision_cfg"], found["text_cfg"]
        assert isinstance(found, dict)
        found["embed_dim"] = WIDTH if "SigLIP" in name else WIDTH // 2
        if "layers" in vision and isinstance(vision["layers"], int):
            vision |= {"layers": LAYERS, "width": WIDTH, "head_width": WIDTH // 2}
            vision["image_size"] = GRID * vision["patch_size"]
        if "width" in text:
            text |= {"width": WIDTH, "heads": 2, "layers": LAYERS, "vocab_size": VOCABULARY}
        return found

    def whole(name: str, **settings: Any) -> nn.Module:
        model: nn.Module = real_create(name, **settings)
        return model

    def create(name: str, **settings: Any) -> nn.Module:
        if not name.startswith(("vit_base_patch", "vit_large_patch14_clip", "vit_pe", "eva_giant")):
            return whole(name, **settings)
        patch = int(name.split("patch")[1][:2])
        sizes: dict[str, Any] = {
            "depth": LAYERS,
            "embed_dim": WIDTH,
            "num_heads": 2,
            "img_size": GRID * patch,
        }
        if "pe_core" in name:
            sizes |= {"ref_feat_shape": (GRID, GRID)}
        return whole(name, **settings, **sizes)

    monkeypatch.setattr(open_clip, "get_model_config", config)
    monkeypatch.setattr(timm, "create_model", create)

    def build(name: str) -> tuple[Any, ClipConfig]:
        found = config(name)
        assert found is not None
        custom = found.pop("custom_text", False)
        kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        model: nn.Module = kind(**found)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        return model.eval(), arch_config(name)

    return build


def blocks_of(model: Any) -> tuple[nn.ModuleList, nn.ModuleList]:
    """The blocks of the vision and of the text tower."""
    vision = model.visual.trunk.blocks if hasattr(model.visual, "trunk") else None
    text = model.text if hasattr(model, "text") else model
    return (
        model.visual.transformer.resblocks if vision is None else vision,
        text.transformer.resblocks,
    )


def hidden_states(run: Callable[[], object], blocks: nn.ModuleList) -> Tensor:
    """Outputs of all blocks (B, layers, tokens, C) while open_clip's model runs."""
    outputs: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _m, _i, out: outputs.append(out)) for block in blocks
    ]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return torch.stack(outputs, dim=1)
