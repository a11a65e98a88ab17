"""`time_step`: the temporal half of one step of the R² block, in one launch, for inference.

For the clips of one query, with c and the queries, keys and values that `frame_step` made of it:

    x = LN(c + W_o·attention over time(queries, keys, values) + b_o)
    last = LN(x + W_2·relu(W_1·x + b_1) + b_2)

Source: R²-Tuning (arXiv 2404.00801), a post-norm transformer layer with H heads of width d = D / H.

Layout: mixed (c) and last (N, T, D) fp32; qkv (N, T, 3·D) in the weights' type, 1/√d being part of
the queries. Products take the weights' type and accumulate in fp32; everything else is fp32.

A program owns ROWS clips of one query. Keys and values go by in blocks of clips with a running
softmax, so T is free; a head's result is multiplied with its rows of W_o at once, and 32 hidden
units of the feed-forward with their rows of W_2, so that neither the heads' results nor the hidden
units are ever held whole. All weights (9·D² numbers) stream past from L2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.blocks import layer_norm, load_rows, matmul, softmax_step

__all__ = ["TimeStepTiling", "TimeStepWeights", "time_step", "time_step_tiling"]


@dataclass(frozen=True, kw_only=True)
class TimeStepWeights:
    """Weights of the temporal half; matrices in fp32, fp16 or bf16, the rest fp32.

    Attributes:
        out: W_o (D, D), transposed: input times output.
        out_bias: (D,).
        norm_weight: (D,).
        norm_bias: (D,).
        hidden: W_1 (F, D) as nn.Linear holds it, F = 4·D.
        hidden_bias: (F,).
        back: W_2 (F, D), transposed: input times output.
        back_bias: (D,).
        last_norm_weight: (D,).
        last_norm_bias: (D,).
    """

    out: Tensor
    out_bias: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    back: Tensor
    back_bias: Tensor
    last_norm_weight: Tensor
    last_norm_bias: Tensor


@dataclass(frozen=True, kw_only=True)
class TimeStepTiling:
    """Clips a program; blocks of clips attended to and of hidden units; warps and stages."""

    rows: int
    block_t: int
    block_f: int
    num_warps: int
    num_stages: int


def time_step_tiling(*, clips: int, queries: int, width: int, itemsize: int) -> TimeStepTiling:
    """Choose a tiling: more rows a program read the weights less often, where rows are many."""
    wide = int(triton.next_power_of_2(width)) * itemsize > 512
    many = clips * queries >= 32 * 256 and not wide
    return TimeStepTiling(
        rows=32 if many else 16,
        block_t=64,
        block_f=16 if wide else 32,
        num_warps=8,
        num_stages=2,
    )


def time_step(
    mixed: Tensor, qkv: Tensor, weights: TimeStepWeights, *, heads: int, eps: float = 1e-5
) -> Tensor:
    """Run the temporal half of a step; see the module's formula.

    Args:
        mixed: c (N, T, D) fp32, contiguous.
        qkv: queries, keys and values side by side (N, T, 3·D), in the weights' type, contiguous.
        weights: of the temporal layer.
        heads: attention heads H.
        eps: of the LayerNorms.

    Returns:
        last (N, T, D) fp32.
    """
    queries, clips, width = mixed.shape
    tiling = time_step_tiling(
        clips=clips, queries=queries, width=width, itemsize=qkv.element_size()
    )
    last = torch.empty_like(mixed)
    _time_step[(queries, triton.cdiv(clips, tiling.rows))](
        mixed,
        qkv,
        weights.out,
        weights.out_bias,
        weights.norm_weight,
        weights.norm_bias,
        weights.hidden,
        weights.hidden_bias,
        weights.back,
        weights.back_bias,
        weights.last_norm_weight,
        weights.last_norm_bias,
        last,
        clips,
        D=width,
        HIDDEN=weights.hidden.shape[0],
        HEADS=heads,
        EPS=eps,
        ROWS=tiling.rows,
        BLOCK_T=tiling.block_t,
        BLOCK_F=tiling.block_f,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )
    return last


@triton.jit(do_not_specialize=["clips"])
def _time_step(
    mixed_ptr: tl.tensor,
    qkv_ptr: tl.tensor,
    out_weight_ptr: tl.tensor,
    out_bias_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    norm_bias_ptr: tl.tensor,
    hidden_ptr: tl.tensor,
    hidden_bias_ptr: tl.tensor,
    back_ptr: tl.tensor,
    back_bias_ptr: tl.tensor,
    last_norm_weight_ptr: tl.tensor,
    last_norm_bias_ptr: tl.tensor,
    last_ptr: tl.tensor,
    clips: tl.tensor,
    D: tl.constexpr,
    HIDDEN: tl.constexpr,
    HEADS: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_F: tl.constexpr,
) -> None:
    """Grid (N, blocks of ROWS clips)."""
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    HEAD: tl.constexpr = D // HEADS
    BLOCK_H: tl.constexpr = max(16, triton.next_power_of_2(HEAD))
    query = tl.program_id(0).to(tl.int64)
    first_clip = tl.program_id(1) * ROWS
    column = tl.arange(0, BLOCK_D)
    real_column = column < D
    clip = first_clip + tl.arange(0, ROWS)
    inside = (clip < clips)[:, None] & real_column[None, :]
    rows_ptr = qkv_ptr + query * clips * (3 * D)

    x = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for head in range(HEADS):
        q = load_rows(rows_ptr + head * HEAD, first_clip, clips, 3 * D, HEAD, ROWS, BLOCK_H)
        top = tl.full([ROWS], -float("inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        attended = tl.zeros([ROWS, BLOCK_H], tl.float32)
        for first in range(0, clips, BLOCK_T):
            k = load_rows(rows_ptr + D + head * HEAD, first, clips, 3 * D, HEAD, BLOCK_T, BLOCK_H)
            v = load_rows(
                rows_ptr + 2 * D + head * HEAD, first, clips, 3 * D, HEAD, BLOCK_T, BLOCK_H
            )
            real = first + tl.arange(0, BLOCK_T) < clips
            scores = tl.where(real[None, :], matmul(q, tl.trans(k)), -float("inf"))
            share, top, total, keep = softmax_step(scores, top, total)
            attended = attended * keep[:, None] + matmul(share, v)
        attended = attended / total[:, None]
        weight = load_rows(out_weight_ptr, head * HEAD, (head + 1) * HEAD, D, D, BLOCK_H)
        x += matmul(attended, weight)
    at = query * clips * D + clip[:, None] * D + column[None, :]
    x += tl.load(mixed_ptr + at, mask=inside, other=0.0)
    x += tl.load(out_bias_ptr + column, mask=real_column, other=0.0)[None, :]
    x = layer_norm(x, norm_weight_ptr, norm_bias_ptr, D, EPS)

    rounded = x.to(hidden_ptr.dtype.element_ty)
    x += tl.load(back_bias_ptr + column, mask=real_column, other=0.0)[None, :]
    for first in range(0, HIDDEN, BLOCK_F):
        unit = first + tl.arange(0, BLOCK_F)
        weight = load_rows(hidden_ptr, first, HIDDEN, D, D, BLOCK_F)
        bias = tl.load(hidden_bias_ptr + unit, mask=unit < HIDDEN, other=0.0)
        hidden = tl.maximum(matmul(rounded, tl.trans(weight)) + bias[None, :], 0.0)
        weight = load_rows(back_ptr, first, HIDDEN, D, D, BLOCK_F)
        x += matmul(hidden, weight)
    last = layer_norm(x, last_norm_weight_ptr, last_norm_bias_ptr, D, EPS)
    tl.store(last_ptr + at, last, mask=inside)
