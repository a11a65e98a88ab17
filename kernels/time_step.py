"""`time_step`: what follows attention over time in one step of the R² block, for inference.

For the clips of one query, with c of `frame_step` and what `time_attention` attended to:

    x = LN(c + W_o·attended + b_o)
    last = LN(x + W_2·relu(W_1·x + b_1) + b_2)

Source: R²-Tuning (arXiv 2404.00801), a post-norm transformer layer.

Layout: mixed (c) and last (N, T, D) fp32; attended (N, T, D) in the weights' type; sums
(parts, N, T, D) fp32. Products take the weights' type and accumulate in fp32; everything else is
fp32.

A program owns ROWS clips of one query and one part of the hidden units (`kernels.splitting`). It
leaves its part of the sum under the last LayerNorm, the first part with x and b_2 in it; the next
`frame_step`, or `settle` after the last step, adds the parts up and normalises. Sums of parts are
taken in one order, so two runs are equal. W_o goes by BLOCK_K inputs at a time, the feed-forward
BLOCK_F hidden units at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.blocks import layer_norm, load_rows, matmul, sum_of_parts
from kernels.splitting import MOST_PARTS, ROWS

__all__ = [
    "SETTLE_ROWS",
    "StepSums",
    "TimeStepTiling",
    "TimeStepWeights",
    "settle",
    "time_step",
    "time_step_tiling",
]

# Clips a program of `settle`, which has no products: all parts of more do not fit the registers.
SETTLE_ROWS = 8


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
class StepSums:
    """A step before its last LayerNorm: sums (parts, N, T, D), to be added up; weight and bias."""

    sums: Tensor
    norm_weight: Tensor
    norm_bias: Tensor


@dataclass(frozen=True, kw_only=True)
class TimeStepTiling:
    """Inputs of W_o and hidden units a block; warps and stages."""

    block_k: int
    block_f: int
    num_warps: int
    num_stages: int


def time_step_tiling(*, width: int, itemsize: int) -> TimeStepTiling:
    """Choose a tiling whose blocks fit the registers and shared memory of every target."""
    wide = int(triton.next_power_of_2(width)) * itemsize > 512
    return TimeStepTiling(
        block_k=16 if wide else 32, block_f=16 if wide else 32, num_warps=8, num_stages=2
    )


def time_step(
    mixed: Tensor,
    attended: Tensor,
    weights: TimeStepWeights,
    *,
    parts: int = 1,
    eps: float = 1e-5,
) -> StepSums:
    """Run what follows attention; see the module's formula.

    Args:
        mixed: c (N, T, D) fp32, contiguous.
        attended: (N, T, D), in the weights' type, contiguous.
        weights: of the temporal layer.
        parts: programs that the hidden units are shared among, at most `MOST_PARTS`.
        eps: of the LayerNorm.
    """
    queries, clips, width = mixed.shape
    tiling = time_step_tiling(width=width, itemsize=attended.element_size())
    sums = mixed.new_empty((parts, queries, clips, width))
    _time_step[(queries, triton.cdiv(clips, ROWS), parts)](
        mixed,
        attended,
        weights.out,
        weights.out_bias,
        weights.norm_weight,
        weights.norm_bias,
        weights.hidden,
        weights.hidden_bias,
        weights.back,
        weights.back_bias,
        sums,
        clips,
        D=width,
        HIDDEN=weights.hidden.shape[0],
        EPS=eps,
        ROWS=ROWS,
        BLOCK_K=tiling.block_k,
        BLOCK_F=tiling.block_f,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )
    return StepSums(
        sums=sums, norm_weight=weights.last_norm_weight, norm_bias=weights.last_norm_bias
    )


def settle(step: StepSums, *, eps: float = 1e-5) -> Tensor:
    """Add the parts of a step up and normalise: last (N, T, D) fp32."""
    parts, queries, clips, width = step.sums.shape
    last = torch.empty_like(step.sums[0])
    _settle[(queries, triton.cdiv(clips, SETTLE_ROWS))](
        step.sums,
        step.norm_weight,
        step.norm_bias,
        last,
        clips,
        parts,
        D=width,
        EPS=eps,
        ROWS=SETTLE_ROWS,
        PARTS=MOST_PARTS,
        num_warps=8,
        num_stages=1,
    )
    return last


@triton.jit(do_not_specialize=["clips"])
def _time_step(
    mixed_ptr: tl.tensor,
    attended_ptr: tl.tensor,
    out_weight_ptr: tl.tensor,
    out_bias_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    norm_bias_ptr: tl.tensor,
    hidden_ptr: tl.tensor,
    hidden_bias_ptr: tl.tensor,
    back_ptr: tl.tensor,
    back_bias_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    clips: tl.tensor,
    D: tl.constexpr,
    HIDDEN: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_F: tl.constexpr,
) -> None:
    """Grid (N, blocks of ROWS clips, parts)."""
    query = tl.program_id(0).to(tl.int64)
    part = tl.program_id(2)
    parts = tl.num_programs(2)
    column = tl.arange(0, triton.next_power_of_2(D))
    real_column = column < D
    clip = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    real_clip = clip < clips
    inside = real_clip[:, None] & real_column[None, :]
    at = query * clips * D + clip[:, None] * D + column[None, :]

    x = tl.load(mixed_ptr + at, mask=inside, other=0.0)
    x += tl.load(out_bias_ptr + column, mask=real_column, other=0.0)[None, :]
    rows_ptr = attended_ptr + query * clips * D + clip[:, None] * D
    for first in range(0, D, BLOCK_K):
        inner = first + tl.arange(0, BLOCK_K)
        real = real_clip[:, None] & (inner < D)[None, :]
        attended = tl.load(rows_ptr + inner[None, :], mask=real, other=0.0)
        x += matmul(attended, load_rows(out_weight_ptr, first, D, D, D, BLOCK_K))
    x = layer_norm(x, norm_weight_ptr, norm_bias_ptr, D, EPS)

    rounded = x.to(hidden_ptr.dtype.element_ty)
    x += tl.load(back_bias_ptr + column, mask=real_column, other=0.0)[None, :]
    x = tl.where(part == 0, x, 0.0)
    for first in range(part * BLOCK_F, HIDDEN, parts * BLOCK_F):
        unit = first + tl.arange(0, BLOCK_F)
        weight = load_rows(hidden_ptr, first, HIDDEN, D, D, BLOCK_F)
        bias = tl.load(hidden_bias_ptr + unit, mask=unit < HIDDEN, other=0.0)
        hidden = tl.maximum(matmul(rounded, tl.trans(weight)) + bias[None, :], 0.0)
        weight = load_rows(back_ptr, first, HIDDEN, D, D, BLOCK_F)
        x += matmul(hidden, weight)
    size = tl.num_programs(0).to(tl.int64) * clips * D
    tl.store(sums_ptr + part * size + at, x, mask=inside)


@triton.jit(do_not_specialize=["clips", "parts"])
def _settle(
    sums_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    norm_bias_ptr: tl.tensor,
    last_ptr: tl.tensor,
    clips: tl.tensor,
    parts: tl.tensor,
    D: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:
    """Grid (N, blocks of ROWS clips)."""
    query = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, triton.next_power_of_2(D))
    clip = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside = (clip < clips)[:, None] & (column < D)[None, :]
    at = query * clips * D + clip[:, None] * D + column[None, :]
    size = tl.num_programs(0).to(tl.int64) * clips * D
    last = sum_of_parts(sums_ptr, at, inside, parts, size, PARTS)
    tl.store(last_ptr + at, layer_norm(last, norm_weight_ptr, norm_bias_ptr, D, EPS), mask=inside)
