"""`finalize`: stored tokens to mapped tokens v, once the number of clips is known, for inference.

The video map of R²-Tuning (arXiv 2404.00801) with temporal endpoint features s = t/T, e = (t + 1)/T
begins with a LayerNorm over [x ; s ; e]. With m = mean(x), M2 = Σ(x - m)² and W' = W·diag(γ), a
token is stored as p = W'ₓ(x - m), m and M2, before T is known; this is the rest:

    n = Cv + 2,  μ = (Cv·m + s + e) / n,  σ² = (M2 + Cv(m - μ)² + (s - μ)² + (e - μ)²) / n
    h = (p + (m - μ)·W'ₓ1 + (s - μ)·w'ₛ + (e - μ)·w'ₑ) / √(σ² + ε) + Wβ + b
    v = W₂·LN(relu(h)) + b₂

Layout: tokens (T, K, P, D + 2), p then m then M2, fp32 or fp16 (rows of D + 2 numbers: loads are
narrow); endpoints (T, 2) fp32; v (T, K, P, D) in the weights' type. Statistics, h and LN are fp32;
the product takes the weights' type and accumulates in fp32.

A program owns ROWS tokens, whatever clip and layer they are of, holds their normalised rows and
lets W₂ go by, some outputs at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from kernels.blocks import layer_norm, load_rows, matmul

__all__ = ["FinalizeTiling", "FinalizeWeights", "finalize", "finalize_tiling"]


@dataclass(frozen=True, kw_only=True)
class FinalizeWeights:
    """Weights of the video map's second half.

    Attributes:
        rows: W'ₓ1, w'ₛ, w'ₑ and Wβ + b, (4, D) fp32.
        norm_weight: of the second LayerNorm, (D,) fp32.
        norm_bias: (D,) fp32.
        linear: W₂ (D, D) as nn.Linear holds it, fp32, fp16 or bf16.
        linear_bias: (D,) fp32.
        channels: width Cv of the hidden states.
    """

    rows: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    linear: Tensor
    linear_bias: Tensor
    channels: int


@dataclass(frozen=True, kw_only=True)
class FinalizeTiling:
    """Tokens a program, outputs a block, warps, stages."""

    rows: int
    block_n: int
    num_warps: int
    num_stages: int


def finalize_tiling(*, width: int, itemsize: int) -> FinalizeTiling:
    """Choose a tiling: 64 rows where they fit the registers, so that W₂ is read seldom."""
    wide = int(triton.next_power_of_2(width)) * itemsize > 512
    return FinalizeTiling(
        rows=32 if wide else 64, block_n=32 if wide else 64, num_warps=8, num_stages=2
    )


def finalize(
    tokens: Tensor, endpoints: Tensor, weights: FinalizeWeights, *, eps: float = 1e-5
) -> Tensor:
    """Map stored tokens to v; see the module's formula.

    Args:
        tokens: p, m and M2 (T, K, P, D + 2), contiguous.
        endpoints: s and e (T, 2) fp32, contiguous.
        weights: of the video map.
        eps: of both LayerNorms.

    Returns:
        v (T, K, P, D) in the type of `weights.linear`.
    """
    clips, layers, patches, stored = tokens.shape
    width = stored - 2
    tiling = finalize_tiling(width=width, itemsize=weights.linear.element_size())
    v = tokens.new_empty((clips, layers, patches, width), dtype=weights.linear.dtype)
    per_clip = layers * patches
    _finalize[(triton.cdiv(clips * per_clip, tiling.rows),)](
        tokens,
        endpoints,
        weights.rows,
        weights.norm_weight,
        weights.norm_bias,
        weights.linear,
        weights.linear_bias,
        v,
        clips * per_clip,
        per_clip,
        D=width,
        CHANNELS=weights.channels,
        EPS=eps,
        ROWS=tiling.rows,
        BLOCK_N=tiling.block_n,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )
    return v


@triton.jit(do_not_specialize=["total", "per_clip"])
def _finalize(
    tokens_ptr: tl.tensor,
    endpoints_ptr: tl.tensor,
    rows_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    norm_bias_ptr: tl.tensor,
    linear_ptr: tl.tensor,
    linear_bias_ptr: tl.tensor,
    v_ptr: tl.tensor,
    total: tl.tensor,
    per_clip: tl.tensor,
    D: tl.constexpr,
    CHANNELS: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Grid (blocks of ROWS tokens)."""
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    COUNT: tl.constexpr = CHANNELS + 2
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = first + tl.arange(0, ROWS)
    real_row = row < total
    column = tl.arange(0, BLOCK_D)
    real_column = column < D
    token_ptr = tokens_ptr + row * (D + 2)
    mean = tl.load(token_ptr + D, mask=real_row, other=0.0).to(tl.float32)
    square = tl.load(token_ptr + D + 1, mask=real_row, other=0.0).to(tl.float32)
    clip = row // per_clip
    start = tl.load(endpoints_ptr + 2 * clip, mask=real_row, other=0.0)
    end = tl.load(endpoints_ptr + 2 * clip + 1, mask=real_row, other=0.0)
    centre = (CHANNELS * mean + start + end) / COUNT
    dm = mean - centre
    ds = start - centre
    de = end - centre
    inverse = tl.rsqrt((square + CHANNELS * dm * dm + ds * ds + de * de) / COUNT + EPS)

    h = load_rows(tokens_ptr, first, total, D + 2, D, ROWS).to(tl.float32)
    h += dm[:, None] * tl.load(rows_ptr + column, mask=real_column, other=0.0)[None, :]
    h += ds[:, None] * tl.load(rows_ptr + D + column, mask=real_column, other=0.0)[None, :]
    h += de[:, None] * tl.load(rows_ptr + 2 * D + column, mask=real_column, other=0.0)[None, :]
    h = h * inverse[:, None]
    h += tl.load(rows_ptr + 3 * D + column, mask=real_column, other=0.0)[None, :]
    z = layer_norm(tl.maximum(h, 0.0), norm_weight_ptr, norm_bias_ptr, D, EPS)
    z = z.to(linear_ptr.dtype.element_ty)
    for first_output in range(0, D, BLOCK_N):
        output = first_output + tl.arange(0, BLOCK_N)
        weight = load_rows(linear_ptr, first_output, D, D, D, BLOCK_N)
        bias = tl.load(linear_bias_ptr + output, mask=output < D, other=0.0)
        v = matmul(z, tl.trans(weight)) + bias[None, :]
        pointers = v_ptr + row[:, None] * D + output[None, :]
        inside = real_row[:, None] & (output < D)[None, :]
        tl.store(pointers, v.to(v_ptr.dtype.element_ty), mask=inside)
