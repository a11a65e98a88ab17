"""`frame_step` behind `query_maps` in plain PyTorch; the formulas are in `kernels`.

Keys and values of the attention to the query are projected here, as the model does it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.frame_step import FrameStepWeights
from kernels.query_maps import QueryMapWeights

__all__ = ["frame_step", "multi_head_attention", "sine_positions"]


def frame_step(
    pooled: Tensor,
    q: Tensor,
    query_mask: Tensor | None,
    last: Tensor | None,
    query: QueryMapWeights,
    weights: FrameStepWeights,
    *,
    gate: float,
    heads: int,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Run the frame-local half of a step.

    Args:
        pooled: pooled frames (N, T, D).
        q: query tokens of the step's layer (N, L, D).
        query_mask: nonzero for real tokens, (N, L).
        last: the step before (N, T, D); None in the first step.
        query: weights of the attention to the query.
        weights: the others.
        gate: share of this step.
        heads: attention heads H.
        eps: of the LayerNorm.

    Returns:
        c (N, T, D); queries, keys and values side by side (N, T, 3·D).
    """
    f = pooled if last is None else gate * pooled + (1 - gate) * last
    clips, width = f.shape[1:]
    pe = sine_positions(clips, width).to(f)
    w = weights
    attended = multi_head_attention(
        F.linear(f + pe, query.cross_q, query.cross_q_bias),
        F.linear(q, query.cross_k),
        F.linear(q, query.cross_v),
        heads,
        query_mask,
    )
    attended = attended @ query.cross_out + w.cross_out_bias
    mixed = F.layer_norm(f + attended, (width,), w.norm_weight, w.norm_bias, eps)
    queries_keys = F.linear(mixed + pe, w.qkv[: 2 * width], w.qkv_bias[: 2 * width])
    values = F.linear(mixed, w.qkv[2 * width :], w.qkv_bias[2 * width :])
    return mixed, torch.cat((queries_keys, values), dim=-1)


def sine_positions(clips: int, width: int) -> Tensor:
    """Return the sine encoding (T, D) of all clips, fp64."""
    turns = torch.arange(1, clips + 1, dtype=torch.float64) / (clips + 1e-6)
    periods = 10000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = 2 * math.pi * turns[:, None] / periods
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)


def multi_head_attention(
    queries: Tensor, keys: Tensor, values: Tensor, heads: int, key_mask: Tensor | None = None
) -> Tensor:
    """Attend from queries (N, T, D), 1/√d included, to keys and values (N, S, D).

    key_mask (N, S) is nonzero for real keys and leaves at least one.
    """
    # (N, H, T or S, d)
    q, k, v = (x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2) for x in (queries, keys, values))
    scores = q @ k.transpose(-1, -2)  # (N, H, T, S)
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask.bool()[:, None, None], -math.inf)
    mixed: Tensor = scores.softmax(dim=-1) @ v
    return mixed.transpose(1, 2).flatten(2)
