"""`frame_pool` in plain PyTorch; the formula is in `kernels.frame_pool`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["frame_pool"]


def frame_pool(
    v: Tensor,
    q: Tensor,
    q_key: Tensor,
    scale: Tensor,
    *,
    query_mask: Tensor | None = None,
    clip_mask: Tensor | None = None,
    gate: Tensor | None = None,
    last: Tensor | None = None,
) -> Tensor:
    """Pool each frame under each query; arguments and result are those of the kernel."""
    frames = v[:, None]  # (B, 1, T, P, D)
    attention = (q_key[:, :, None] @ frames.transpose(-1, -2)).softmax(dim=-1)
    values = attention @ frames + q[:, :, None]  # (B, N, T, L, D)
    if query_mask is None:
        pooled = values.amax(dim=3)
    else:
        real = query_mask.bool()[:, :, None, :, None]
        pooled = values.masked_fill(~real, -math.inf).amax(dim=3)
        pooled = torch.where(real.any(dim=3), pooled, torch.zeros_like(pooled))
    f = frames[:, :, :, 0] + scale * pooled
    if gate is not None and last is not None:
        f = gate * f + (1 - gate) * last
    if clip_mask is not None:
        f = f.masked_fill(~clip_mask.bool()[:, None, :, None], 0)
    return f
