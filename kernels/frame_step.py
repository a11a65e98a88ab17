"""`frame_step`: the frame-local half of one step of the R² block, in one launch, for inference.

For clip t of T and query n, with the pooled frame (`kernels.layer_pool`), the query's keys and
values (`kernels.query_maps`) and the step before, whose sums `kernels.time_step` left:

    last = LN(sums),  f = gate·pooled + (1 - gate)·last
    c = LN(f + Σ over heads and tokens of softmax((f + pe)·key + bias)·value + b_o),
    pe the sine encoding of t
    queries, keys, values of self-attention = W_q(c + pe), W_k(c + pe), W_v·c

Source: R²-Tuning (arXiv 2404.00801).

Layout: pooled and mixed (c) (N, T, D) fp32; sums (parts, N, T, D) fp32; qkv (N, T, 3·D) in the
weights' type. Products take the weights' type and accumulate in fp32; everything else is fp32.

A program owns ROWS clips of one query, since tensor cores take no fewer, and one part of the
projections (`kernels.splitting`). Every part computes c of its clips for itself: that reads 128 KB
of the query where the projections of all parts are 384 KB of weights. The softmax takes all heads
at once; its maxima and sums come first, since heads are summed up in one accumulator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.blocks import layer_norm, matmul, positions, sum_of_parts
from kernels.query_maps import QueryMaps
from kernels.splitting import MOST_PARTS, ROWS
from kernels.time_step import StepSums

__all__ = ["FrameStepTiling", "FrameStepWeights", "frame_step", "frame_step_tiling"]


@dataclass(frozen=True, kw_only=True)
class FrameStepWeights:
    """Weights of the frame-local half; the matrix in fp32, fp16 or bf16, the rest fp32.

    Attributes:
        cross_out_bias: b_o + W_o·b_v of the attention to the query, (D,).
        norm_weight: (D,).
        norm_bias: (D,).
        qkv: (3·D, D), rows of queries (times 1/√d), keys, values of self-attention.
        qkv_bias: (3·D,), likewise.
    """

    cross_out_bias: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    qkv: Tensor
    qkv_bias: Tensor


@dataclass(frozen=True, kw_only=True)
class FrameStepTiling:
    """Blocks of query tokens (of all heads) and of outputs; warps and stages."""

    block_l: int
    block_n: int
    num_warps: int
    num_stages: int


# Keys or values of one block: with two of them a target with 99 KB has no room for the rest.
_TILE_BYTES = 64 << 10


def frame_step_tiling(*, width: int, heads: int, itemsize: int) -> FrameStepTiling:
    """Choose a tiling whose blocks fit the registers and shared memory of every target."""
    row_bytes = int(triton.next_power_of_2(width)) * itemsize
    tokens = _TILE_BYTES // row_bytes // int(triton.next_power_of_2(heads))
    # Three tiles of weights: the next two are under way while one is multiplied.
    return FrameStepTiling(
        block_l=max(1, min(16, tokens)),
        block_n=16 if row_bytes > 512 else 32,
        num_warps=8,
        num_stages=3,
    )


def frame_step(
    pooled: Tensor,
    maps: QueryMaps,
    layer: int,
    before: StepSums | None,
    weights: FrameStepWeights,
    *,
    gate: float,
    parts: int = 1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Run the frame-local half of a step; see the module's formula.

    Args:
        pooled: pooled frames of the step's layer (N, T, D) fp32, contiguous.
        maps: keys and values of the query, of all layers.
        layer: which of them.
        before: the step before, of as many parts; None in the first step.
        weights: of the temporal layer.
        gate: share of this step, behind its sigmoid; without `before` it has no effect.
        parts: programs that the projections are shared among, at most `MOST_PARTS`.
        eps: of the LayerNorms.

    Returns:
        c (N, T, D) fp32; queries, keys and values side by side (N, T, 3·D) in the weights' type.
    """
    queries, clips, width = pooled.shape
    heads, length = maps.keys.shape[2:4]
    tiling = frame_step_tiling(width=width, heads=heads, itemsize=weights.qkv.element_size())
    mixed = torch.empty_like(pooled)
    qkv = weights.qkv.new_empty((queries, clips, 3 * width))
    _frame_step[(queries, triton.cdiv(clips, ROWS), parts)](
        pooled,
        maps.keys[:, layer],
        maps.values[:, layer],
        maps.biases[:, layer],
        None if before is None else before.sums,
        None if before is None else before.norm_weight,
        None if before is None else before.norm_bias,
        gate,
        weights.cross_out_bias,
        weights.norm_weight,
        weights.norm_bias,
        weights.qkv,
        weights.qkv_bias,
        mixed,
        qkv,
        clips,
        length,
        maps.biases.stride(0),
        D=width,
        HEADS=heads,
        EPS=eps,
        ROWS=ROWS,
        PARTS=MOST_PARTS,
        BLOCK_L=tiling.block_l,
        BLOCK_N=tiling.block_n,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )
    return mixed, qkv


@triton.jit(do_not_specialize=["clips", "length", "query_tokens"])
def _frame_step(
    pooled_ptr: tl.tensor,
    keys_ptr: tl.tensor,
    values_ptr: tl.tensor,
    biases_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    last_norm_weight_ptr: tl.tensor,
    last_norm_bias_ptr: tl.tensor,
    gate: tl.tensor,
    cross_out_bias_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    norm_bias_ptr: tl.tensor,
    qkv_weight_ptr: tl.tensor,
    qkv_bias_ptr: tl.tensor,
    mixed_ptr: tl.tensor,
    qkv_ptr: tl.tensor,
    clips: tl.tensor,
    length: tl.tensor,
    query_tokens: tl.tensor,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Grid (N, blocks of ROWS clips, parts)."""
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    query = tl.program_id(0).to(tl.int64)
    part = tl.program_id(2)
    parts = tl.num_programs(2)
    column = tl.arange(0, BLOCK_D)
    real_column = column < D
    clip = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    real_clip = clip < clips
    inside = real_clip[:, None] & real_column[None, :]

    at = query * clips * D + clip[:, None] * D + column[None, :]
    f = tl.load(pooled_ptr + at, mask=inside, other=0.0)
    if sums_ptr is not None:
        size = tl.num_programs(0).to(tl.int64) * clips * D
        last = sum_of_parts(sums_ptr, at, inside, parts, size, PARTS)
        last = layer_norm(last, last_norm_weight_ptr, last_norm_bias_ptr, D, EPS)
        f = gate * f + (1.0 - gate) * last

    pe = positions(clip, clips, D)
    tokens = query * query_tokens
    attended = _attend_query(
        (f + pe).to(keys_ptr.dtype.element_ty),
        keys_ptr + tokens * D, values_ptr + tokens * D, biases_ptr + tokens, length,
        D, HEADS, ROWS, BLOCK_L,
    )  # fmt: skip
    bias = tl.load(cross_out_bias_ptr + column, mask=real_column, other=0.0)
    mixed = layer_norm(f + attended + bias[None, :], norm_weight_ptr, norm_bias_ptr, D, EPS)
    tl.store(mixed_ptr + at, mixed, mask=inside & (part == 0))

    placed = (mixed + pe).to(qkv_weight_ptr.dtype.element_ty)
    content = mixed.to(qkv_weight_ptr.dtype.element_ty)
    out_ptr = qkv_ptr + query * clips * (3 * D)
    _project(
        placed, qkv_weight_ptr, qkv_bias_ptr, out_ptr, clip, real_clip, part, parts,
        0, 2 * D, D, BLOCK_N,
    )  # fmt: skip
    _project(
        content, qkv_weight_ptr, qkv_bias_ptr, out_ptr, clip, real_clip, part, parts,
        2 * D, 3 * D, D, BLOCK_N,
    )  # fmt: skip


@triton.jit
def _attend_query(
    x: tl.tensor,
    keys_ptr: tl.tensor,
    values_ptr: tl.tensor,
    biases_ptr: tl.tensor,
    length: tl.tensor,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_L: tl.constexpr,
) -> tl.tensor:
    """Attention of rows x (ROWS, D) to the query's tokens in all heads, fp32; 0 without tokens."""
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    HEADS_2: tl.constexpr = triton.next_power_of_2(HEADS)
    top = tl.full([ROWS, HEADS_2], -float("inf"), tl.float32)
    total = tl.zeros([ROWS, HEADS_2], tl.float32)
    shift = tl.zeros([ROWS, HEADS_2], tl.float32)
    for first in tl.range(0, length, BLOCK_L, num_stages=1):
        scores = _scores(x, keys_ptr, biases_ptr, first, length, D, HEADS, ROWS, BLOCK_L)
        new_top = tl.maximum(top, tl.max(scores, axis=2))
        shift = tl.where(new_top == -float("inf"), 0.0, new_top)
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(scores - shift[:, :, None]), axis=2)
        top = new_top
    inverse = tl.where(total == 0.0, 0.0, 1.0 / tl.where(total == 0.0, 1.0, total))

    attended = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for first in tl.range(0, length, BLOCK_L, num_stages=1):
        scores = _scores(x, keys_ptr, biases_ptr, first, length, D, HEADS, ROWS, BLOCK_L)
        share = tl.exp(scores - shift[:, :, None]) * inverse[:, :, None]
        value = _load_tokens(values_ptr, first, length, D, HEADS, BLOCK_L)
        attended += matmul(tl.reshape(share, [ROWS, HEADS_2 * BLOCK_L]), value)
    return attended


@triton.jit
def _scores(
    x: tl.tensor,
    keys_ptr: tl.tensor,
    biases_ptr: tl.tensor,
    first: tl.tensor,
    length: tl.tensor,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_L: tl.constexpr,
) -> tl.tensor:
    """Scores (ROWS, H, BLOCK_L) of a block of tokens, H a power of two; -inf for padding."""
    HEADS_2: tl.constexpr = triton.next_power_of_2(HEADS)
    row = tl.arange(0, HEADS_2 * BLOCK_L)
    head = row // BLOCK_L
    token = first + row % BLOCK_L
    real = (head < HEADS) & (token < length)
    key = _load_tokens(keys_ptr, first, length, D, HEADS, BLOCK_L)
    bias = tl.load(biases_ptr + head * length + token, mask=real, other=-float("inf"))
    scores = matmul(x, tl.trans(key)) + bias[None, :]
    return tl.reshape(scores, [ROWS, HEADS_2, BLOCK_L])


@triton.jit
def _load_tokens(
    pointer: tl.tensor,
    first: tl.tensor,
    length: tl.tensor,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_L: tl.constexpr,
) -> tl.tensor:
    """Load a block of tokens of all heads, (H·BLOCK_L, D), from (H, length, D)."""
    row = tl.arange(0, triton.next_power_of_2(HEADS) * BLOCK_L)
    head = row // BLOCK_L
    token = first + row % BLOCK_L
    column = tl.arange(0, triton.next_power_of_2(D))
    real = ((head < HEADS) & (token < length))[:, None] & (column < D)[None, :]
    at = (head * length + token)[:, None] * D + column[None, :]
    return tl.load(pointer + at, mask=real, other=0.0)


@triton.jit
def _project(
    x: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    out_ptr: tl.tensor,
    clip: tl.tensor,
    real_clip: tl.tensor,
    part: tl.tensor,
    parts: tl.tensor,
    FIRST: tl.constexpr,
    END: tl.constexpr,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Write every parts-th block of outputs FIRST..END of x·Wᵀ + b to rows 3·D wide."""
    column = tl.arange(0, triton.next_power_of_2(D))
    for first in range(FIRST + part * BLOCK_N, END, parts * BLOCK_N):
        output = first + tl.arange(0, BLOCK_N)
        real = output < END
        weight = tl.load(
            weight_ptr + output[:, None] * D + column[None, :],
            mask=real[:, None] & (column < D)[None, :],
            other=0.0,
        )
        bias = tl.load(bias_ptr + output, mask=real, other=0.0)
        y = matmul(x, tl.trans(weight)) + bias[None, :]
        pointers = out_ptr + clip[:, None] * (3 * D) + output[None, :]
        tl.store(pointers, y.to(out_ptr.dtype.element_ty), mask=real_clip[:, None] & real[None, :])
