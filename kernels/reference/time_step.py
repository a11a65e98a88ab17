"""`time_attention`, `time_step` and `settle` in plain PyTorch; the formulas are in `kernels`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kernels.reference.frame_step import multi_head_attention
from kernels.time_step import TimeStepWeights

__all__ = ["time_step"]


def time_step(
    mixed: Tensor, qkv: Tensor, weights: TimeStepWeights, *, heads: int, eps: float = 1e-5
) -> Tensor:
    """Run the temporal half of a step.

    Args:
        mixed: c (N, T, D).
        qkv: queries, keys and values side by side (N, T, 3·D).
        weights: of the temporal layer.
        heads: attention heads H.
        eps: of the LayerNorms.

    Returns:
        last (N, T, D).
    """
    w, width = weights, (mixed.shape[-1],)
    queries, keys, values = qkv.chunk(3, dim=-1)
    attended = multi_head_attention(queries, keys, values, heads)
    x = mixed + attended @ w.out + w.out_bias
    x = F.layer_norm(x, width, w.norm_weight, w.norm_bias, eps)
    hidden = F.linear(x, w.hidden, w.hidden_bias).relu()
    x = x + hidden @ w.back + w.back_bias
    return F.layer_norm(x, width, w.last_norm_weight, w.last_norm_bias, eps)
