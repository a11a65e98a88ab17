"""`frame_step`: the frame-local half of one step of the R² block, in one launch, for inference.

For clip t of T and query n, with tokens v (P, D), query tokens q, q_key (L, D) and the step before:

    f = gate·(v[CLS] + scale · max over l of (softmax(q_key·vᵀ)·v + q)) + (1 - gate)·last
    c = LN(f + attention(f + pe, q, q)),  pe the sine encoding of t
    queries, keys, values of self-attention = W_q(c + pe), W_k(c + pe), W_v·c

Source: R²-Tuning (arXiv 2404.00801). The attention to the query has heads h of width d = D / H, and
its keys and values are q itself, as in `frame_pool`: with u = W_q,h(f + pe)/√d the scores are
(u·W_k,h)·qᵀ, the key's bias being the same for all tokens; and W_v,h is applied to the one attended
row of each clip instead of the L tokens. So nothing of a query is prepared by another launch.

Layout: v (T, P, D) of one layer, its clips any stride apart; q, q_key (N, L, D) likewise; mixed (c)
and last (N, T, D) fp32; qkv (N, T, 3·D) in the weights' type. Products take the weights' type and
accumulate in fp32; everything else is fp32.

A program owns `span` <= ROWS clips of one query: it pools them one by one, its tile of v being read
by the programs of the other queries from the cache, and takes the rows through the layer together,
since tensor cores take no fewer than 16. All weights (7·D² numbers) stream past it from L2, a head
or 64 outputs at a time: a whole D x D matrix does not fit shared memory beside the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.blocks import (
    attend_patches,
    layer_norm,
    load_rows,
    matmul,
    positions,
    softmax_step,
)
from kernels.frame_pool import pool_tiling
from kernels.occupancy import multiprocessors_of

__all__ = [
    "ROWS",
    "FrameStepTiling",
    "FrameStepWeights",
    "frame_step",
    "frame_step_tiling",
]

ROWS = 16


@dataclass(frozen=True, kw_only=True)
class FrameStepWeights:
    """Weights of the frame-local half; matrices in fp32, fp16 or bf16, the rest fp32.

    Attributes:
        cross_q: (D, D) as nn.Linear holds it, times 1/√d; its rows come head by head.
        cross_q_bias: (D,), times 1/√d.
        cross_k: (D, D); its bias has no effect.
        cross_v: (D, D).
        cross_v_bias: (D,).
        cross_out: (D, D), transposed: input times output.
        cross_out_bias: (D,).
        norm_weight: (D,).
        norm_bias: (D,).
        qkv: (3·D, D), rows of queries (times 1/√d), keys, values of self-attention.
        qkv_bias: (3·D,), likewise.
    """

    cross_q: Tensor
    cross_q_bias: Tensor
    cross_k: Tensor
    cross_v: Tensor
    cross_v_bias: Tensor
    cross_out: Tensor
    cross_out_bias: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    qkv: Tensor
    qkv_bias: Tensor


@dataclass(frozen=True, kw_only=True)
class FrameStepTiling:
    """Blocks of query tokens, patches and outputs; clips a program; warps and stages."""

    block_l: int
    block_p: int
    block_n: int
    span: int
    num_warps: int
    num_stages: int


def frame_step_tiling(
    *,
    clips: int,
    queries: int,
    patches: int,
    length: int,
    width: int,
    itemsize: int,
    multiprocessors: int,
) -> FrameStepTiling:
    """Choose a tiling: as few clips a program as give every multiprocessor at most one program.

    A block takes most of a multiprocessor's registers, so that each program beyond their number
    waits for another one to end. The division is rounded up: rounded down, 150 clips on 132
    multiprocessors would be 150 programs, and take as long as 264.
    """
    pool = pool_tiling(patches=patches, length=length, width=width, itemsize=itemsize)
    wide = int(triton.next_power_of_2(width)) * itemsize > 512
    return FrameStepTiling(
        block_l=16,
        block_p=min(pool.block_p, 32 if wide else 64),
        block_n=16 if wide else 64,
        span=max(1, min(ROWS, clips, triton.cdiv(clips * queries, multiprocessors))),
        num_warps=8,
        num_stages=1,
    )


def frame_step(
    v: Tensor,
    q: Tensor,
    q_key: Tensor,
    query_mask: Tensor | None,
    last: Tensor | None,
    weights: FrameStepWeights,
    *,
    scale: float,
    gate: float,
    heads: int,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Run the frame-local half of a step; see the module's formula.

    Args:
        v: mapped tokens of the step's layer (T, P, D), CLS first, in the weights' type.
        q: query tokens of the layer (N, L, D), in the weights' type.
        q_key: keys of the query tokens (N, L, D), 1/√D included, in the weights' type.
        query_mask: nonzero for real tokens, (N, L), contiguous.
        last: the step before, (N, T, D) fp32, contiguous; None in the first step.
        weights: of the temporal layer.
        scale: weight of the pooled patches, behind its tanh.
        gate: share of this step, behind its sigmoid; without `last` it has no effect.
        heads: attention heads H.
        eps: of the LayerNorm.

    Returns:
        c (N, T, D) fp32; queries, keys and values side by side (N, T, 3·D) in the weights' type.
    """
    clips, patches, width = v.shape
    queries, length = q.shape[:2]
    tiling = frame_step_tiling(
        clips=clips,
        queries=queries,
        patches=patches,
        length=length,
        width=width,
        itemsize=v.element_size(),
        multiprocessors=multiprocessors_of(v.device),
    )
    mixed = v.new_empty((queries, clips, width), dtype=torch.float32)
    qkv = v.new_empty((queries, clips, 3 * width))
    # Programs of the same clips and different queries run side by side and share v in the cache.
    _frame_step[(queries, triton.cdiv(clips, tiling.span))](
        v,
        q,
        q_key,
        query_mask,
        last,
        scale,
        gate,
        weights.cross_q,
        weights.cross_q_bias,
        weights.cross_k,
        weights.cross_v,
        weights.cross_v_bias,
        weights.cross_out,
        weights.cross_out_bias,
        weights.norm_weight,
        weights.norm_bias,
        weights.qkv,
        weights.qkv_bias,
        mixed,
        qkv,
        clips,
        length,
        tiling.span,
        v.stride(0),
        q.stride(0),
        P=patches,
        D=width,
        HEADS=heads,
        EPS=eps,
        ROWS=ROWS,
        BLOCK_L=tiling.block_l,
        BLOCK_P=tiling.block_p,
        BLOCK_N=tiling.block_n,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )
    return mixed, qkv


@triton.jit
def _frame_step(
    v_ptr: tl.tensor,
    q_ptr: tl.tensor,
    key_ptr: tl.tensor,
    query_mask_ptr: tl.tensor,
    last_ptr: tl.tensor,
    scale: tl.tensor,
    gate: tl.tensor,
    cross_q_ptr: tl.tensor,
    cross_q_bias_ptr: tl.tensor,
    cross_k_ptr: tl.tensor,
    cross_v_ptr: tl.tensor,
    cross_v_bias_ptr: tl.tensor,
    cross_out_ptr: tl.tensor,
    cross_out_bias_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    norm_bias_ptr: tl.tensor,
    qkv_weight_ptr: tl.tensor,
    qkv_bias_ptr: tl.tensor,
    mixed_ptr: tl.tensor,
    qkv_ptr: tl.tensor,
    clips: tl.tensor,
    length: tl.tensor,
    span: tl.tensor,
    stride_clip: tl.tensor,
    stride_query: tl.tensor,
    P: tl.constexpr,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Grid (N, spans of clips)."""
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    query = tl.program_id(0).to(tl.int64)
    first_clip = tl.program_id(1) * span
    here = tl.minimum(span, clips - first_clip)
    column = tl.arange(0, BLOCK_D)
    real_column = column < D
    row = tl.arange(0, ROWS)
    clip = first_clip + row
    inside = (row < here)[:, None] & real_column[None, :]
    tokens_ptr = q_ptr + query * stride_query
    mask_ptr = query_mask_ptr
    if query_mask_ptr is not None:
        mask_ptr = query_mask_ptr + query * length

    f = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for i in range(here):
        frame_ptr = v_ptr + (first_clip + i).to(tl.int64) * stride_clip
        pooled = _pool(
            frame_ptr, tokens_ptr, key_ptr + query * stride_query, mask_ptr, length,
            P, D, BLOCK_L, BLOCK_P,
        )  # fmt: skip
        cls = tl.load(frame_ptr + column, mask=real_column, other=0.0).to(tl.float32)
        pooled = cls + scale * pooled
        f = tl.where((row == i)[:, None], pooled[None, :], f)
    at = query * clips * D + clip[:, None] * D + column[None, :]
    if last_ptr is not None:
        f = gate * f + (1.0 - gate) * tl.load(last_ptr + at, mask=inside, other=0.0)

    pe = positions(clip, clips, D)
    attended = _attend_query(
        (f + pe).to(cross_q_ptr.dtype.element_ty), tokens_ptr, mask_ptr, length,
        cross_q_ptr, cross_q_bias_ptr, cross_k_ptr, cross_v_ptr, cross_v_bias_ptr, cross_out_ptr,
        D, HEADS, ROWS, BLOCK_L,
    )  # fmt: skip
    bias = tl.load(cross_out_bias_ptr + column, mask=real_column, other=0.0)
    mixed = layer_norm(f + attended + bias[None, :], norm_weight_ptr, norm_bias_ptr, D, EPS)
    tl.store(mixed_ptr + at, mixed, mask=inside)

    placed = (mixed + pe).to(qkv_weight_ptr.dtype.element_ty)
    content = mixed.to(qkv_weight_ptr.dtype.element_ty)
    out_ptr = qkv_ptr + query * clips * (3 * D)
    _project(placed, qkv_weight_ptr, qkv_bias_ptr, out_ptr, clip, row < here, 0, 2 * D, D, BLOCK_N)
    _project(
        content, qkv_weight_ptr, qkv_bias_ptr, out_ptr, clip, row < here, 2 * D, 3 * D, D, BLOCK_N
    )


@triton.jit
def _pool(
    frame_ptr: tl.tensor,
    tokens_ptr: tl.tensor,
    key_ptr: tl.tensor,
    mask_ptr: tl.tensor,
    length: tl.tensor,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> tl.tensor:
    """Return max over real l of (softmax(q_key·vᵀ)·v + q), (D), 0 without any real token."""
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    held = load_rows(frame_ptr, 0, P, D, D, BLOCK_P)
    best = tl.full([BLOCK_D], -float("inf"), tl.float32)
    for first in range(0, length, BLOCK_L):
        key = load_rows(key_ptr, first, length, D, D, BLOCK_L)
        attended, _lse = attend_patches(key, held, frame_ptr, P, D, BLOCK_L, BLOCK_P)
        q = load_rows(tokens_ptr, first, length, D, D, BLOCK_L)
        real = _real_tokens(mask_ptr, first, length, BLOCK_L)
        values = tl.where(real[:, None], attended + q.to(tl.float32), -float("inf"))
        best = tl.maximum(best, tl.max(values, axis=0))
    return tl.where(best == -float("inf"), 0.0, best)


@triton.jit
def _attend_query(
    x: tl.tensor,
    tokens_ptr: tl.tensor,
    mask_ptr: tl.tensor,
    length: tl.tensor,
    q_weight_ptr: tl.tensor,
    q_bias_ptr: tl.tensor,
    k_weight_ptr: tl.tensor,
    v_weight_ptr: tl.tensor,
    v_bias_ptr: tl.tensor,
    out_weight_ptr: tl.tensor,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_L: tl.constexpr,
) -> tl.tensor:
    """Attention of rows x (ROWS, D) to the query's tokens, without the output's bias, fp32."""
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    HEAD: tl.constexpr = D // HEADS
    BLOCK_H: tl.constexpr = max(16, triton.next_power_of_2(HEAD))
    out = tl.zeros([ROWS, BLOCK_D], tl.float32)
    lane = tl.arange(0, BLOCK_H)
    for head in range(HEADS):
        first_row = head * HEAD
        end = first_row + HEAD
        weight = load_rows(q_weight_ptr, first_row, end, D, D, BLOCK_H)
        bias = tl.load(q_bias_ptr + first_row + lane, mask=lane < HEAD, other=0.0)
        u = matmul(x, tl.trans(weight)) + bias[None, :]
        weight = load_rows(k_weight_ptr, first_row, end, D, D, BLOCK_H)
        key = matmul(u, weight).to(weight.dtype)  # (ROWS, D)

        top = tl.full([ROWS], -float("inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        attended = tl.zeros([ROWS, BLOCK_D], tl.float32)
        for first in range(0, length, BLOCK_L):
            q = load_rows(tokens_ptr, first, length, D, D, BLOCK_L)
            real = _real_tokens(mask_ptr, first, length, BLOCK_L)
            scores = tl.where(real[None, :], matmul(key, tl.trans(q)), -float("inf"))
            share, top, total, keep = softmax_step(scores, top, total)
            attended = attended * keep[:, None] + matmul(share, q)
        attended = attended / tl.where(total == 0.0, 1.0, total)[:, None]

        weight = load_rows(v_weight_ptr, first_row, end, D, D, BLOCK_H)
        bias = tl.load(v_bias_ptr + first_row + lane, mask=lane < HEAD, other=0.0)
        value = matmul(attended, tl.trans(weight)) + bias[None, :]  # (ROWS, d)
        weight = load_rows(out_weight_ptr, first_row, end, D, D, BLOCK_H)
        out += matmul(value, weight)
    return out


@triton.jit
def _real_tokens(
    mask_ptr: tl.tensor, first: tl.tensor, length: tl.tensor, BLOCK_L: tl.constexpr
) -> tl.tensor:
    token = first + tl.arange(0, BLOCK_L)
    real = token < length
    if mask_ptr is not None:
        real = tl.load(mask_ptr + token, mask=real, other=0) != 0
    return real


@triton.jit
def _project(
    x: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    out_ptr: tl.tensor,
    clip: tl.tensor,
    real_clip: tl.tensor,
    FIRST: tl.constexpr,
    END: tl.constexpr,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Write outputs FIRST..END of x·Wᵀ + b, BLOCK_N at a time, to rows 3·D wide."""
    for first in range(FIRST, END, BLOCK_N):
        output = first + tl.arange(0, BLOCK_N)
        real = output < END
        weight = load_rows(weight_ptr, first, END, D, D, BLOCK_N)
        bias = tl.load(bias_ptr + output, mask=real, other=0.0)
        y = matmul(x, tl.trans(weight)) + bias[None, :]
        pointers = out_ptr + clip[:, None] * (3 * D) + output[None, :]
        tl.store(pointers, y.to(out_ptr.dtype.element_ty), mask=real_clip[:, None] & real[None, :])
