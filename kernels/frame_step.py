"""`frame_step`: the frame-local half of one step of the R² block, in one launch, for inference.

For clip t of T and query n, with the pooled frame (`kernels.layer_pool`), the query's tokens q
(L, D) and the step before:

    f = gate·pooled + (1 - gate)·last
    c = LN(f + attention(f + pe, q, q)),  pe the sine encoding of t
    queries, keys, values of self-attention = W_q(c + pe), W_k(c + pe), W_v·c

Source: R²-Tuning (arXiv 2404.00801). The attention to the query has heads h of width d = D / H, and
its keys and values are q itself: with u = W_q,h(f + pe)/√d the scores are
(u·W_k,h)·qᵀ, the key's bias being the same for all tokens; and W_v,h is applied to the one attended
row of each clip instead of the L tokens. So nothing of a query is prepared by another launch.

Layout: pooled, mixed (c) and last (N, T, D) fp32; q (N, L, D) of one layer, its queries any stride
apart; qkv (N, T, 3·D) in the weights' type. Products take the weights' type and accumulate in fp32;
everything else is fp32.

A program owns ROWS clips of one query, since tensor cores take no fewer. All weights (7·D² numbers)
stream past it from L2, a head or BLOCK_N outputs at a time: a whole D x D matrix does not fit
shared memory beside the rest. One clip takes as long as ROWS of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.blocks import layer_norm, load_rows, matmul, positions, real_tokens, softmax_step

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
    """Blocks of query tokens and of outputs; warps and stages."""

    block_l: int
    block_n: int
    num_warps: int
    num_stages: int


def frame_step_tiling(*, width: int, itemsize: int) -> FrameStepTiling:
    """Choose a tiling whose blocks fit the registers and shared memory of every target."""
    wide = int(triton.next_power_of_2(width)) * itemsize > 512
    # Three tiles of weights: the next two are under way while one is multiplied.
    return FrameStepTiling(
        block_l=16, block_n=16 if wide else 64, num_warps=8, num_stages=1 if wide else 3
    )


def frame_step(
    pooled: Tensor,
    q: Tensor,
    query_mask: Tensor | None,
    last: Tensor | None,
    weights: FrameStepWeights,
    *,
    gate: float,
    heads: int,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Run the frame-local half of a step; see the module's formula.

    Args:
        pooled: pooled frames of the step's layer (N, T, D) fp32, contiguous.
        q: query tokens of the layer (N, L, D), in the weights' type.
        query_mask: nonzero for real tokens, (N, L) fp32, contiguous; None if nothing is padded.
        last: the step before, (N, T, D) fp32, contiguous; None in the first step.
        weights: of the temporal layer.
        gate: share of this step, behind its sigmoid; without `last` it has no effect.
        heads: attention heads H.
        eps: of the LayerNorm.

    Returns:
        c (N, T, D) fp32; queries, keys and values side by side (N, T, 3·D) in the weights' type.
    """
    queries, clips, width = pooled.shape
    tiling = frame_step_tiling(width=width, itemsize=q.element_size())
    mixed = torch.empty_like(pooled)
    qkv = q.new_empty((queries, clips, 3 * width))
    _frame_step[(queries, triton.cdiv(clips, ROWS))](
        pooled,
        q,
        query_mask,
        last,
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
        q.shape[1],
        q.stride(0),
        D=width,
        HEADS=heads,
        EPS=eps,
        ROWS=ROWS,
        BLOCK_L=tiling.block_l,
        BLOCK_N=tiling.block_n,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )
    return mixed, qkv


@triton.jit(do_not_specialize=["clips", "length"])
def _frame_step(
    pooled_ptr: tl.tensor,
    q_ptr: tl.tensor,
    query_mask_ptr: tl.tensor,
    last_ptr: tl.tensor,
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
    stride_query: tl.tensor,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Grid (N, blocks of ROWS clips)."""
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    query = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_D)
    real_column = column < D
    clip = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    real_clip = clip < clips
    inside = real_clip[:, None] & real_column[None, :]
    tokens_ptr = q_ptr + query * stride_query
    mask_ptr = query_mask_ptr
    if query_mask_ptr is not None:
        mask_ptr = query_mask_ptr + query * length

    at = query * clips * D + clip[:, None] * D + column[None, :]
    f = tl.load(pooled_ptr + at, mask=inside, other=0.0)
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
    _project(placed, qkv_weight_ptr, qkv_bias_ptr, out_ptr, clip, real_clip, 0, 2 * D, D, BLOCK_N)
    _project(
        content, qkv_weight_ptr, qkv_bias_ptr, out_ptr, clip, real_clip, 2 * D, 3 * D, D, BLOCK_N
    )


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
            real = real_tokens(mask_ptr, first, length, BLOCK_L)
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
