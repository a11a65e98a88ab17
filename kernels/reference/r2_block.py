"""`r2_block` in plain PyTorch, layer by layer."""

from __future__ import annotations

from torch import Tensor

from kernels.reference.frame_step import frame_step
from kernels.reference.layer_pool import layer_pool
from kernels.reference.time_step import time_step
from kernels.weights import R2BlockWeights

__all__ = ["r2_block"]


def r2_block(
    v: Tensor, q: Tensor, q_key: Tensor, query_mask: Tensor | None, weights: R2BlockWeights
) -> Tensor:
    """Run the recurrence; arguments and result are those of the kernels."""
    pooled = layer_pool(v, q, q_key, query_mask, weights.scales)
    last = None
    for layer in reversed(range(v.shape[1])):
        mixed, qkv = frame_step(
            pooled[layer],
            q[:, layer],
            query_mask,
            last,
            weights.query,
            weights.frame,
            gate=weights.gates[layer],
            heads=weights.heads,
        )
        last = time_step(mixed, qkv, weights.time, heads=weights.heads)
    assert last is not None
    return last
