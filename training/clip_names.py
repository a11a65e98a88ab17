"""Names of encoders' tensors: those of OpenAI's state dicts, into which all others are brought.

open_clip's models have OpenAI's names where both towers are its own, other prefixes where the text
tower is a module (`text.`) or the vision tower is timm's (`visual.trunk.`). What a tower has beside
a plain one is folded into what all have: a patch's bias into the positions, layer scales into the
layer before them, a missing bias of keys into zeros.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["PROJECTIONS", "openai_name", "openai_tensors"]

PROJECTIONS = {
    "vision_projection.norm.": "visual.ln_post.",
    "vision_projection.pool.": "visual.attn_pool.",
    "vision_projection.weight": "visual.proj",
    "vision_projection.bias": "visual.proj_bias",
    "text_projection.norm.": "ln_final.",
    "text_projection.weight": "text_projection",
    "text_projection.bias": "text_projection_bias",
}
"""Names of `ClipTowers` on the way from a tower to the embedding, and OpenAI's."""

_TO_OPENAI = {
    "qkv.weight": "attn.in_proj_weight",
    "qkv.bias": "attn.in_proj_bias",
    "out.": "attn.out_proj.",
    "fc.": "mlp.c_fc.",
    "proj.": "mlp.c_proj.",
}
# timm's names behind `visual.trunk.`, and OpenAI's.
_OF_TIMM = (
    (r"blocks\.(\d+)\.norm1\.", r"transformer.resblocks.\1.ln_1."),
    (r"blocks\.(\d+)\.norm2\.", r"transformer.resblocks.\1.ln_2."),
    (r"blocks\.(\d+)\.attn\.qkv\.weight", r"transformer.resblocks.\1.attn.in_proj_weight"),
    (r"blocks\.(\d+)\.attn\.qkv\.bias", r"transformer.resblocks.\1.attn.in_proj_bias"),
    (r"blocks\.(\d+)\.attn\.proj\.", r"transformer.resblocks.\1.attn.out_proj."),
    (r"blocks\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"blocks\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
    (r"blocks\.(\d+)\.(?:ls([12])\.gamma|gamma_([12]))", r"transformer.resblocks.\1.ls_\2\3.gamma"),
    (r"blocks\.", r"transformer.resblocks."),
    (r"norm_pre\.", r"ln_pre."),
    (r"norm\.", r"ln_post."),
    (r"patch_embed\.proj\.weight", r"conv1.weight"),
    (r"patch_embed\.proj\.bias", r"conv1.bias"),
    (r"attn_pool\.proj\.", r"attn_pool.out."),
    (r"attn_pool\.mlp\.fc1\.", r"attn_pool.fc."),
    (r"attn_pool\.mlp\.fc2\.", r"attn_pool.proj."),
    (r"attn_pool\.", r"attn_pool."),
    (r"cls_token", r"class_embedding"),
    (r"pos_embed", r"positional_embedding"),
)
# Projections that are linear layers, and OpenAI's matrices, which are their transposes.
_LINEAR_HEADS = {
    "visual.trunk.head": "visual.proj",
    "visual.head.proj": "visual.proj",
    "text_projection": "text_projection",
}
_SCALED = {"ls_1": "attn.out_proj", "ls_2": "mlp.c_proj"}


def openai_name(name: str) -> str:
    """The key in OpenAI's state dicts of a parameter of `ClipTowers`."""
    for ours, theirs in PROJECTIONS.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    name = name.removeprefix("text.")
    name = re.sub(r"^vision\.", "visual.", name)
    block = re.fullmatch(r"(visual\.)?blocks\.(\d+)\.(.+)", name)
    if block is None:
        return name
    part = block[3]
    for ours, theirs in _TO_OPENAI.items():
        if part.startswith(ours):
            part = theirs + part.removeprefix(ours)
            break
    return f"{block[1] or ''}transformer.resblocks.{block[2]}.{part}"


def openai_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of open_clip under OpenAI's names, its further parts folded in."""
    found = {_plain_name(name): tensor for name, tensor in tensors.items()}
    for name in ("visual.class_embedding", "visual.positional_embedding"):
        if name in found and "visual.trunk.pos_embed" in tensors:
            found[name] = found[name].reshape(-1, found[name].shape[-1])
    if "visual.trunk.cls_token" in tensors:
        found["visual.class_embedding"] = found["visual.class_embedding"][0]
    for head, matrix in _LINEAR_HEADS.items():
        if f"{head}.weight" in found:
            found[matrix] = found.pop(f"{head}.weight").T
        if f"{head}.bias" in found:
            found[f"{matrix}_bias"] = found.pop(f"{head}.bias")
    _fold_patch_bias(found)
    _fold_layer_scales(found)
    for name in [name for name in found if name.endswith(".attn.q_bias")]:
        block = name.removesuffix("q_bias")
        query, value = found.pop(name), found.pop(f"{block}v_bias")
        found[f"{block}in_proj_bias"] = torch.cat([query, torch.zeros_like(query), value])
    return found


def _plain_name(name: str) -> str:
    name = name.removeprefix("text.")
    inner = name.removeprefix("visual.trunk.")
    if inner == name:
        return name
    for theirs, ours in _OF_TIMM:
        if match := re.match(theirs, inner):
            return f"visual.{match.expand(ours)}{inner[match.end() :]}"
    return name


def _fold_patch_bias(found: dict[str, Tensor]) -> None:
    bias = found.pop("visual.conv1.bias", None)
    if bias is None:
        return
    positions = found["visual.positional_embedding"].clone()
    # A class token has no patch.
    positions[int("visual.class_embedding" in found) :] += bias
    found["visual.positional_embedding"] = positions


def _fold_layer_scales(found: dict[str, Tensor]) -> None:
    """Multiply each branch's last layer by the scale of its outputs."""
    for name in [name for name in found if name.endswith(".gamma")]:
        block, scale = name.removesuffix(".gamma").rsplit(".", 1)
        if scale not in _SCALED:
            continue
        gamma, layer = found.pop(name), f"{block}.{_SCALED[scale]}"
        found[f"{layer}.weight"] = found[f"{layer}.weight"] * gamma[:, None]
        found[f"{layer}.bias"] = found[f"{layer}.bias"] * gamma
