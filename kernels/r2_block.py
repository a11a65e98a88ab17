"""The R² block as 3 + 3·K launches.

`query_maps` and `layer_pool` for all layers at once; then `frame_step`, `time_attention` and
`time_step` for each, from CLIP's last layer, which has no step before it; then `settle`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.frame_step import frame_step
from kernels.layer_pool import layer_pool
from kernels.query_maps import query_maps
from kernels.splitting import parts_for
from kernels.time_attention import time_attention
from kernels.time_step import settle, time_step
from kernels.weights import R2BlockWeights

__all__ = ["r2_block"]


def r2_block(
    v: Tensor,
    q: Tensor,
    q_key: Tensor,
    query_mask: Tensor | None,
    weights: R2BlockWeights,
    *,
    parts: int | None = None,
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
        parts: programs that share a block of clips; None chooses by the GPU
            (`kernels.splitting`).

    Returns:
        Clip embeddings (N, T, D), fp32, before the pyramid's ReLU.

    Raises:
        ValueError: shapes or types do not fit the weights.
    """
    _check(v, q, q_key, query_mask, weights)
    v, q, q_key = v.contiguous(), q.contiguous(), q_key.contiguous()
    query_mask = None if query_mask is None else query_mask.to(torch.float32).contiguous()
    if parts is None:
        parts = parts_for(v.device, clips=len(v), queries=len(q))
    maps = query_maps(q, query_mask, weights.query, heads=weights.heads)
    pooled = layer_pool(v, q, q_key, query_mask, weights.scales)
    step = None
    for layer in reversed(range(v.shape[1])):
        mixed, qkv = frame_step(
            pooled[layer],
            maps,
            layer,
            step,
            weights.frame,
            gate=weights.gates[layer],
            parts=parts,
        )
        attended = time_attention(qkv, heads=weights.heads)
        step = time_step(mixed, attended, weights.time, parts=parts)
    assert step is not None
    return settle(step)


def _check(
    v: Tensor, q: Tensor, q_key: Tensor, query_mask: Tensor | None, weights: R2BlockWeights
) -> None:
    layers, width = len(weights.scales), weights.query.cross_q.shape[0]
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
    dtype = weights.query.cross_q.dtype
    for name, x in (("v", v), ("q", q), ("q_key", q_key)):
        if x.dtype != dtype:
            raise ValueError(f"expected {name} in the weights' {dtype}, got {x.dtype}")
