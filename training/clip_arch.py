"""Encoders by open_clip's names: their sizes and kinds, or the reason why one does not fit.

An encoder fits where both towers are pre-LN transformers whose layers all have one token a patch,
or a word piece, and every operator is one that the towers of `training.clip_towers` have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from training.clip_config import (
    DEFAULT_ARCH,
    OPENAI_MEAN,
    OPENAI_STD,
    ClipConfig,
    ClipError,
    ProjectionKind,
    TextKind,
    VisionKind,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["arch_config", "infer_config"]

PixelStatistics = tuple[float, float, float]
_HEAD_WIDTH = 64
_QUICKGELU_ARCHS = (
    "ViT-B-32-quickgelu",
    "ViT-B-16-quickgelu",
    "ViT-L-14-quickgelu",
    "ViT-L-14-336-quickgelu",
)
# Settings of open_clip that are read here; any other that a model has set is refused by its name.
_READ = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "custom_text"} | {
    "init_logit_bias",
    "init_logit_scale",
}
_READ_VISION = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"} | {
    "no_ln_pre",
    "pool_type",
    "final_ln_after_pool",
    "ls_init_value",
}
_READ_TIMM = {"image_size", "timm_model_name", "timm_model_pretrained", "timm_pool"} | {
    "timm_proj",
    "timm_drop",
    "timm_drop_path",
}
_READ_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"} | {
    "hf_tokenizer_name",
    "tokenizer_kwargs",
    "no_causal_mask",
    "pool_type",
    "eos_id",
    "proj_bias",
    "proj_type",
    "norm_kwargs",
    "act_kwargs",
}
# Padding of the tokenizers whose padding is not 0: in SigLIP's first two it is the end token.
_PAD_IDS = {"timm/ViT-B-16-SigLIP": 1, "timm/ViT-B-16-SigLIP-i18n-256": 1}


def arch_config(name: str) -> ClipConfig:
    """Return the sizes and kinds of open_clip's architecture `name`.

    Raises:
        ClipError: open_clip has no such architecture, or it does not fit; the message says why.
    """
    import open_clip

    found = open_clip.get_model_config(name)
    if found is None:
        raise ClipError(f"open_clip has no architecture {name!r}; {DEFAULT_ARCH} is the usual one")
    if "multimodal_cfg" in found:
        raise _UnfitError(
            name, "it is a CoCa, whose text tower ends in a class token of a captioner"
        )
    _refuse_others(name, "", found, _READ)
    embed_width, quick_gelu = found["embed_dim"], found.get("quick_gelu", False)
    vision = found["vision_cfg"]
    sizes = (
        _timm_vision(name, vision, embed_width)
        if "timm_model_name" in vision
        else _plain_vision(name, vision)
    )
    mean, std = _pixel_statistics(name)
    return ClipConfig(
        name=name,
        quick_gelu=quick_gelu,
        embed_width=embed_width,
        mean=mean,
        std=std,
        **sizes,
        **_text(name, found["text_cfg"]),
    )


def _pixel_statistics(name: str) -> tuple[PixelStatistics, PixelStatistics]:
    """Mean and standard deviation that all published weights of an architecture have, or OpenAI's.

    A file of weights does not show them.
    """
    import open_clip

    found = {
        (tuple(map(float, cfg["mean"])), tuple(map(float, cfg["std"])))
        for tag in open_clip.list_pretrained_tags_by_model(name)
        if (cfg := open_clip.get_pretrained_cfg(name, tag))
    }
    return found.pop() if len(found) == 1 else (OPENAI_MEAN, OPENAI_STD)  # type: ignore[return-value]


class _UnfitError(ClipError):
    """An architecture of open_clip that does not fit."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"{name} cannot be read layer by layer: {reason}; docs/guides/encoders.md lists the "
            "encoders that fit"
        )


def _refuse_others(name: str, tower: str, found: Mapping[str, Any], read: set[str]) -> None:
    unknown = sorted(found.keys() - read)
    if unknown:
        raise _UnfitError(name, f"its {tower}configuration sets {', '.join(unknown)}")


def _plain_vision(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Of a vision transformer of open_clip's own."""
    if not isinstance(found["layers"], int):
        raise _UnfitError(name, "its vision tower is a ResNet, whose layers are convolutions")
    _refuse_others(name, "vision tower's ", found, _READ_VISION)
    mean = found.get("pool_type", "tok") == "avg"
    if mean != found.get("final_ln_after_pool", False):
        raise _UnfitError(name, "its patches are pooled behind the last norm")
    width = found["width"]
    return {
        "image_size": found["image_size"],
        "patch_size": found["patch_size"],
        "vision_width": width,
        "vision_layers": found["layers"],
        "vision_heads": width // found.get("head_width", _HEAD_WIDTH),
        "vision_mlp_width": int(width * found.get("mlp_ratio", 4.0)),
        "vision": VisionKind(
            pre_norm=not found.get("no_ln_pre", False), frame_token="mean" if mean else "class"
        ),
    }


def _timm_vision(name: str, found: Mapping[str, Any], embed_width: int) -> dict[str, Any]:
    """Of a vision tower of timm, which is built without memory and looked at."""
    import torch
    from open_clip.timm_model import TimmModel
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    _refuse_others(name, "vision tower's ", found, _READ_TIMM)
    model = found["timm_model_name"]
    with torch.device("meta"):
        tower = TimmModel(
            model,
            embed_width,
            image_size=found["image_size"],
            pool=found.get("timm_pool", "avg"),
            proj=found.get("timm_proj", "linear"),
        )
    trunk: Any = tower.trunk
    if type(trunk) not in (VisionTransformer, Eva):
        raise _UnfitError(
            name,
            f"its vision tower {model} is a {type(trunk).__name__}, which has convolutions, "
            "windows or relative positions, and not one grid of tokens in every layer",
        )
    _refuse_trunk(name, model, trunk)
    block, pool = trunk.blocks[0], trunk.attn_pool
    return {
        "image_size": trunk.patch_embed.img_size[0],
        "patch_size": trunk.patch_embed.patch_size[0],
        "vision_width": trunk.embed_dim,
        "vision_layers": len(trunk.blocks),
        "vision_heads": block.attn.num_heads,
        "vision_mlp_width": block.mlp.fc1.out_features,
        "vision": VisionKind(
            class_token=trunk.cls_token is not None,
            pre_norm=not isinstance(trunk.norm_pre, torch.nn.Identity),
            rotary=_rotary(name, trunk),
            tanh_gelu=_is_tanh_gelu(name, block.mlp.act),
            eps=block.norm1.eps,
            frame_token="mean" if trunk.cls_token is None else "class",
            pool_heads=0 if pool is None else pool.num_heads,
            pool_mlp_width=0 if pool is None else pool.mlp.fc1.out_features,
            projection=_head_kind(tower),
        ),
    }


def _refuse_trunk(name: str, model: str, trunk: Any) -> None:
    import torch
    from timm.layers import PatchEmbed
    from timm.models.eva import EvaBlock
    from timm.models.vision_transformer import Block

    block = trunk.blocks[0]
    parts = [getattr(block.attn, part, None) for part in ("norm", "q_norm", "k_norm", "gate")]
    inner = [part for part in parts if not isinstance(part, torch.nn.Identity | None)]
    reasons = {
        "patches are made by a stack of convolutions": type(trunk.patch_embed) is not PatchEmbed,
        "norms stand behind the branches": type(block) not in (Block, EvaBlock),
        "the MLP is gated (SwiGLU)": type(block.mlp).__name__ != "Mlp",
        "queries or keys have norms or gates of their own": bool(inner),
        "there are register tokens": trunk.num_prefix_tokens > 1,
        "positions are added to patches alone": trunk.no_embed_class and trunk.num_prefix_tokens,
        "patches are averaged behind the last norm": trunk.global_pool not in ("token", "map"),
    }
    found = [reason for reason, applies in reasons.items() if applies]
    if found:
        raise _UnfitError(name, f"in its vision tower {model}, {' and '.join(found)}")


def _rotary(name: str, trunk: Any) -> float | None:
    rope = getattr(trunk, "rope", None)
    if rope is None:
        return None
    grid = tuple(trunk.patch_embed.grid_size)
    plain = (
        type(rope).__name__ == "RotaryEmbeddingCat"
        and rope.grid_indexing == "xy"
        and tuple(rope.ref_feat_shape or grid) == grid
        and not rope.in_pixels
        and rope.temperature == 10000
        and not trunk.blocks[0].attn.rotate_half
    )
    if not plain:
        raise _UnfitError(name, "its rotary positions are not those of the Perception Encoder")
    return float(rope.grid_offset)


def _is_tanh_gelu(name: str, activation: Any) -> bool:
    kind = type(activation).__name__
    if kind not in ("GELU", "GELUTanh"):
        raise _UnfitError(name, f"its activation is {kind}, expected a GELU")
    return kind == "GELUTanh" or getattr(activation, "approximate", "none") == "tanh"


def _head_kind(tower: Any) -> ProjectionKind:
    """How the pooled state becomes the embedding; open_clip's own head stands behind timm's."""
    heads = [x for x in (tower.trunk.head, getattr(tower.head, "proj", None)) if x is not None]
    linears = [x for x in heads if hasattr(x, "weight")]
    if not linears:
        return "none"
    return "matrix" if linears[0].bias is None else "affine"


def _text(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    if "hf_model_name" in found:
        raise _UnfitError(name, f"its text tower {found['hf_model_name']} is one of transformers")
    _refuse_others(name, "text tower's ", found, _READ_TEXT)
    kwargs, pooling = found.get("tokenizer_kwargs", {}), found.get("pool_type", "argmax")
    _refuse_others(name, "tokenizer's ", kwargs, {"clean", "strip_sep_token"})
    hub = found.get("hf_tokenizer_name")
    if pooling not in ("argmax", "eos", "last") or (pooling == "argmax" and hub):
        raise _UnfitError(name, f"the embedding of a text is pooled by {pooling!r}")
    projection: ProjectionKind = "affine" if found.get("proj_bias", False) else "matrix"
    if found.get("proj_type") == "none":
        projection = "none"
    width = found["width"]
    return {
        "text_width": width,
        "text_layers": found["layers"],
        "text_heads": found["heads"],
        "text_mlp_width": int(width * found.get("mlp_ratio", 4.0)),
        "context_length": found["context_length"],
        "vocab_size": found["vocab_size"],
        "text": TextKind(
            causal=not found.get("no_causal_mask", False),
            pad_id=_PAD_IDS.get(hub or "", 0),
            tanh_gelu=found.get("act_kwargs", {}).get("approximate") == "tanh",
            eps=found.get("norm_kwargs", {}).get("eps", 1e-5),
            pooling="last" if pooling == "last" else "end",
            projection=projection,
            cleaning="clip" if hub is None else kwargs.get("clean", "whitespace"),
            tokenizer=hub,
            unended=kwargs.get("strip_sep_token", False),
        ),
    }


def infer_config(tensors: Mapping[str, Tensor]) -> ClipConfig:
    """Return the sizes that a state dict in OpenAI's key names has.

    Heads are 64 wide and the activation is QuickGELU, as in all of OpenAI's models: a file cannot
    show. A model that differs needs its architecture named.
    """

    def shape(key: str, ndim: int) -> torch.Size:
        if key not in tensors:
            raise ClipError(f"CLIP weights lack {key}; expected a ViT CLIP in OpenAI's key names")
        if tensors[key].ndim != ndim:
            raise ClipError(
                f"{key} has shape {tuple(tensors[key].shape)}, expected {ndim} dimensions"
            )
        if 0 in tensors[key].shape:
            raise ClipError(f"{key} is empty: its shape is {tuple(tensors[key].shape)}")
        return tensors[key].shape

    def heads(width: int) -> int:
        if width % _HEAD_WIDTH:
            raise ClipError(
                f"a width of {width} is no multiple of {_HEAD_WIDTH}, the width of CLIP's heads; "
                "name the architecture"
            )
        return width // _HEAD_WIDTH

    def depth(prefix: str) -> int:
        blocks = (re.match(rf"{re.escape(prefix)}\.resblocks\.(\d+)\.", key) for key in tensors)
        return len({block[1] for block in blocks if block})

    vision_width, _, _, patch = shape("visual.conv1.weight", 4)
    grid = round((shape("visual.positional_embedding", 2)[0] - 1) ** 0.5)
    vocab_size, text_width = shape("token_embedding.weight", 2)
    config = ClipConfig(
        name="",
        image_size=grid * patch,
        patch_size=patch,
        vision_width=vision_width,
        vision_layers=depth("visual.transformer"),
        vision_heads=heads(vision_width),
        vision_mlp_width=shape("visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        text_width=text_width,
        text_layers=depth("transformer"),
        text_heads=heads(text_width),
        text_mlp_width=shape("transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        context_length=shape("positional_embedding", 2)[0],
        vocab_size=vocab_size,
        embed_width=shape("visual.proj", 2)[1] if "visual.proj" in tensors else None,
    )
    for name in _QUICKGELU_ARCHS:
        known = replace(arch_config(name), embed_width=config.embed_width)
        if replace(config, name=name) == known:
            return known
    return replace(
        config,
        name=f"ViT {vision_width}x{config.vision_layers} / {patch} at {config.image_size} px, "
        f"text {text_width}x{config.text_layers}",
    )
