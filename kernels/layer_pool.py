"""`layer_pool`: the frames of all K layers pooled under each query, in one launch, for inference.

For the tokens v (P, D) of a clip in layer k, CLS first, and a query of tokens q, q_key (L, D):

    pooled = v[CLS] + scale_k · max over real l of (softmax over P of (q_key·vᵀ)·v + q)[l]

Source: R²-Tuning (arXiv 2404.00801). Pooling does not depend on the recurrence over the layers, so
all layers are pooled before it: K·T·N programs, where a step alone has T·N.

Layout: v (T, K, P, D); q, q_key (N, K, L, D); pooled (K, N, T, D) fp32, so that a step reads a
contiguous part. Products take v's type and accumulate in fp32; everything else is fp32.
`kernels.frame_pool` computes the same with gradients, for training.

A program owns one frame of one query. Programs of the same frame and different queries run side by
side and share v in the cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.blocks import attend_patches, load_rows, real_tokens
from kernels.frame_pool import pool_tiling

__all__ = ["layer_pool"]


def layer_pool(
    v: Tensor, q: Tensor, q_key: Tensor, query_mask: Tensor | None, scales: Tensor
) -> Tensor:
    """Pool the frames of every layer under every query; see the module's formula.

    Args:
        v: mapped tokens (T, K, P, D), CLS first, contiguous; fp32, fp16 or bf16.
        q: query tokens (N, K, L, D), contiguous, in v's type.
        q_key: keys of the query tokens (N, K, L, D), 1/√D included, likewise.
        query_mask: nonzero for real tokens, (N, L) fp32, contiguous; None if nothing is padded.
        scales: weight of the pooled patches of each layer, behind its tanh, (K,) fp32.

    Returns:
        pooled (K, N, T, D) fp32. A query without any real token has v[CLS].
    """
    clips, layers, patches, width = v.shape
    queries, _, length, _ = q.shape
    tiling = pool_tiling(patches=patches, length=length, width=width, itemsize=v.element_size())
    pooled = v.new_empty((layers, queries, clips, width), dtype=torch.float32)
    _layer_pool[(queries, clips, layers)](
        v,
        q,
        q_key,
        query_mask,
        scales,
        pooled,
        length,
        P=patches,
        D=width,
        BLOCK_L=tiling.block_l,
        BLOCK_P=tiling.block_p,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )
    return pooled


@triton.jit(do_not_specialize=["length"])
def _layer_pool(
    v_ptr: tl.tensor,
    q_ptr: tl.tensor,
    key_ptr: tl.tensor,
    query_mask_ptr: tl.tensor,
    scales_ptr: tl.tensor,
    pooled_ptr: tl.tensor,
    length: tl.tensor,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> None:
    """Grid (N, T, K)."""
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    query = tl.program_id(0).to(tl.int64)
    clip = tl.program_id(1).to(tl.int64)
    layer = tl.program_id(2).to(tl.int64)
    queries = tl.num_programs(0)
    clips = tl.num_programs(1)
    layers = tl.num_programs(2)
    column = tl.arange(0, BLOCK_D)
    real_column = column < D

    frame_ptr = v_ptr + (clip * layers + layer) * (P * D)
    tokens_at = (query * layers + layer) * length * D
    mask_ptr = query_mask_ptr
    if query_mask_ptr is not None:
        mask_ptr = query_mask_ptr + query * length
    held = load_rows(frame_ptr, 0, P, D, D, BLOCK_P)
    best = tl.full([BLOCK_D], -float("inf"), tl.float32)
    for first in range(0, length, BLOCK_L):
        key = load_rows(key_ptr + tokens_at, first, length, D, D, BLOCK_L)
        attended, _lse = attend_patches(key, held, frame_ptr, P, D, BLOCK_L, BLOCK_P)
        q = load_rows(q_ptr + tokens_at, first, length, D, D, BLOCK_L)
        real = real_tokens(mask_ptr, first, length, BLOCK_L)
        values = tl.where(real[:, None], attended + q.to(tl.float32), -float("inf"))
        best = tl.maximum(best, tl.max(values, axis=0))
    best = tl.where(best == -float("inf"), 0.0, best)
    cls = tl.load(frame_ptr + column, mask=real_column, other=0.0).to(tl.float32)
    pooled = cls + tl.load(scales_ptr + layer) * best
    at = ((layer * queries + query) * clips + clip) * D
    tl.store(pooled_ptr + at + column, pooled, mask=real_column)
