"""The sizes of a CLIP: named by open_clip, or read off the shapes of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from training.checkpoint import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "DEFAULT_ARCH",
    "OPENAI_MEAN",
    "OPENAI_STD",
    "ClipConfig",
    "ClipError",
    "arch_config",
    "infer_config",
]

DEFAULT_ARCH = "ViT-B-32-quickgelu"
# Mean and standard deviation of RGB in 0..1 that OpenAI's CLIP was trained with.
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

_HEAD_WIDTH = 64
_QUICKGELU_ARCHS = (
    "ViT-B-32-quickgelu",
    "ViT-B-16-quickgelu",
    "ViT-L-14-quickgelu",
    "ViT-L-14-336-quickgelu",
)


class ClipError(CheckpointError):
    """CLIP weights that cannot be had, read, or fitted to their architecture."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Sizes and provenance of a CLIP.

    Attributes:
        name: open_clip's name of the architecture, or a description where it has none.
        image_size: side of the square input frame, in pixels.
        patch_size: side of a patch, in pixels.
        vision_width: numbers Cv of a vision token.
        vision_layers: blocks of the vision tower.
        vision_heads: attention heads of a vision block.
        vision_mlp_width: hidden width of a vision block's MLP.
        text_width: numbers Ct of a text token.
        text_layers: blocks of the text tower.
        text_heads: attention heads of a text block.
        text_mlp_width: hidden width of a text block's MLP.
        context_length: the most tokens of a query, start and end included.
        vocab_size: number of token ids.
        quick_gelu: whether the activation is x·σ(1.702x) (else the exact GELU).
        embed_width: numbers E of the embedding that both towers project to; None where the weights
            have no projections.
        mean: mean of RGB in 0..1 that a frame is normalised with.
        std: standard deviation of RGB in 0..1 that a frame is normalised with.
        weights_source: where the weights came from, for people.
        weights_sha256: sha256 of the weights' file; None where they came from no file.
    """

    name: str
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    vision_mlp_width: int
    text_width: int
    text_layers: int
    text_heads: int
    text_mlp_width: int
    context_length: int = 77
    vocab_size: int = 49408
    quick_gelu: bool = True
    embed_width: int | None = None
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    weights_source: str = ""
    weights_sha256: str | None = None

    @property
    def patches(self) -> int:
        """Tokens a frame P: the CLS token and the grid of patches."""
        return (self.image_size // self.patch_size) ** 2 + 1


def arch_config(name: str) -> ClipConfig:
    """Return the sizes of open_clip's architecture `name`.

    Raises:
        ClipError: open_clip has no such architecture, or its towers are not plain CLIP ones (a
            model of timm or of transformers, layer scale, pooled or unmasked text).
    """
    import open_clip

    found = open_clip.get_model_config(name)
    if found is None:
        raise ClipError(f"open_clip has no architecture {name!r}; {DEFAULT_ARCH} is the usual one")
    vision, text = found["vision_cfg"], found["text_cfg"]
    unknown = (
        (found.keys() - {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"})
        | (
            vision.keys()
            - {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
        )
        | (text.keys() - {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"})
    )
    if unknown or not isinstance(vision["layers"], int):
        reason = ", ".join(sorted(unknown)) or "a convolutional vision tower"
        raise ClipError(f"{name} is not a plain CLIP of two transformers: it has {reason}")
    return ClipConfig(
        name=name,
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        vision_width=vision["width"],
        vision_layers=vision["layers"],
        vision_heads=vision["width"] // vision.get("head_width", _HEAD_WIDTH),
        vision_mlp_width=int(vision["width"] * vision.get("mlp_ratio", 4.0)),
        text_width=text["width"],
        text_layers=text["layers"],
        text_heads=text["heads"],
        text_mlp_width=int(text["width"] * text.get("mlp_ratio", 4.0)),
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        quick_gelu=found.get("quick_gelu", False),
        embed_width=found["embed_dim"],
    )


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
