"""`finalize` in plain PyTorch; the formula is in `kernels.finalize`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.finalize import FinalizeWeights

__all__ = ["finalize"]


def finalize(
    tokens: Tensor, endpoints: Tensor, weights: FinalizeWeights, *, eps: float = 1e-5
) -> Tensor:
    """Map stored tokens to v; arguments and result are those of the kernel."""
    width, channels = tokens.shape[-1] - 2, weights.channels
    projected, mean, square = torch.split(tokens, [width, 1, 1], dim=-1)
    start, end = endpoints[:, None, None].chunk(2, dim=-1)  # (T, 1, 1, 1)
    centre = (channels * mean + start + end) / (channels + 2)
    dm, ds, de = mean - centre, start - centre, end - centre
    variance = (square + channels * dm**2 + ds**2 + de**2) / (channels + 2)
    shift = torch.cat((dm, ds, de), dim=-1) @ weights.rows[:3]
    h = (projected + shift) / (variance + eps).sqrt() + weights.rows[3]
    z = F.layer_norm(h.relu(), (width,), weights.norm_weight, weights.norm_bias, eps)
    return F.linear(z, weights.linear, weights.linear_bias)
