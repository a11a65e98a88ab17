"""The R² block as 1 + 2·K launches: `layer_pool`, then `frame_step` and `time_step` for each layer.

last = time_step(frame_step(pooled[layer], last)), starting from CLIP's last layer without a step
before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.frame_step import frame_step
from kernels.layer_pool import layer_pool
from kernels.time_step import time_step
from kernels.weights import R2BlockWeights

__all__ = ["r2_block"]


def r2_block(
    v: Tensor, q: Tensor, q_key: Tensor, query_mask: Tensor | None, weights: R2BlockWeights
) -> Tensor:
    """Run the recurrence for N queries on one video; for inference.

    Arguments are the grounder's inputs (r2rt.model.contract), but for the pooled query, which
    the heads alone read.

    Args:
        v: mapped tokens (T, K, P, D), contiguous, in the weights' type.
        q: mapped query tokens (N, K, L, D), contiguous, in the weights' type.
        q_key: keys of the query tokens (N, K, L, D), 1/√D included, likewise.
        query_mask: 1 for real tokens, (N, L); None where nothing is padded.
        weights: packed by `kernels.weights.pack_r2_block`.

    Returns:
        Clip embeddings (N, T, D), fp32, before the pyramid's ReLU.

    Raises:
        ValueError: shapes or types do not fit the weights.
    """
    _check(v, q, q_key, query_mask, weights)
    v, q, q_key = v.contiguous(), q.contiguous(), q_key.contiguous()
    query_mask = None if query_mask is None else query_mask.to(torch.float32).contiguous()
    pooled = layer_pool(v, q, q_key, query_mask, weights.scales)
    last = None
    for layer in reversed(range(v.shape[1])):
        mixed, qkv = frame_step(
            pooled[layer],
            q[:, layer],
            query_mask,
            last,
            weights.frame,
            gate=weights.gates[layer],
            heads=weights.heads,
        )
        last = time_step(mixed, qkv, weights.time, heads=weights.heads)
    assert last is not None
    return last


def _check(
    v: Tensor, q: Tensor, q_key: Tensor, query_mask: Tensor | None, weights: R2BlockWeights
) -> None:
    layers, width = len(weights.scales), weights.frame.cross_q.shape[0]
    if v.ndim != 4 or 0 in v.shape or v.shape[1] != layers or v.shape[3] != width:
        raise ValueError(f"expected v (T, {layers}, P, {width}), not empty; got {tuple(v.shape)}")
    if q.ndim != 4 or 0 in q.shape or q.shape[1] != layers or q.shape[3] != width:
        raise ValueError(f"expected q (N, {layers}, L, {width}), not empty; got {tuple(q.shape)}")
    if q_key.shape != q.shape:
        raise ValueError(f"expected q_key {tuple(q.shape)}, got {tuple(q_key.shape)}")
    if query_mask is not None and query_mask.shape != (q.shape[0], q.shape[2]):
        raise ValueError(
            f"expected query_mask {(q.shape[0], q.shape[2])}, got {tuple(query_mask.shape)}"
        )
    dtype = weights.frame.cross_q.dtype
    for name, x in (("v", v), ("q", q), ("q_key", q_key)):
        if x.dtype != dtype:
            raise ValueError(f"expected {name} in the weights' {dtype}, got {x.dtype}")
