"""Device functions that several kernels share. Tiles are rows of width D, padded to a power of two.

Sums, softmax and normalisation are in fp32; products take their operands' type and accumulate in
fp32 (fp32 operands without TF32).
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "attend_patches",
    "layer_norm",
    "load_rows",
    "matmul",
    "positions",
    "real_tokens",
    "softmax_step",
    "sum_of_parts",
]

_INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def load_rows(
    pointer: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    stride: tl.tensor,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_W: tl.constexpr = 0,
) -> tl.tensor:
    """Load rows first..first + ROWS of a matrix, zeros from row `end` on and beyond WIDTH columns.

    Columns are padded to a power of two, or to BLOCK_W.
    """
    BLOCK: tl.constexpr = BLOCK_W if BLOCK_W > 0 else triton.next_power_of_2(WIDTH)
    row = first + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    real = (row < end)[:, None] & (column < WIDTH)[None, :]
    return tl.load(pointer + row[:, None] * stride + column[None, :], mask=real, other=0.0)


@triton.jit
def matmul(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """a·b in fp32, a rounded to b's type."""
    a = a.to(b.dtype)
    if _INTERPRETED and b.dtype == tl.bfloat16:
        # The interpreter holds bf16 as integers and would multiply those.
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def softmax_step(scores: tl.tensor, top: tl.tensor, total: tl.tensor) -> tl.tensor:
    """One step of a softmax whose columns arrive in blocks (arXiv 1805.02867).

    Returns the block's unnormalised weights, the new maximum and sum of each row, and the factor
    for what was accumulated before. A row that has only seen -inf has weights and sum 0.
    """
    new_top = tl.maximum(top, tl.max(scores, axis=1))
    shift = tl.where(new_top == -float("inf"), 0.0, new_top)
    weights = tl.exp(scores - shift[:, None])
    keep = tl.exp(top - shift)
    return weights, new_top, total * keep + tl.sum(weights, axis=1), keep


@triton.jit
def attend_patches(
    key: tl.tensor,
    held: tl.tensor,
    frame_ptr: tl.tensor,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> tl.tensor:
    """Attend to a frame: softmax over P of key·vᵀ, times v, for query tokens `key` (BLOCK_L, D).

    Args:
        key: keys of the query tokens, 1/√D included.
        held: the frame's tokens where P fits one block, so that several queries share one load.
        frame_ptr: the frame's tokens (P, D), read block by block where they do not.
        P: tokens a frame.
        D: width.
        BLOCK_L: query tokens.
        BLOCK_P: patches a block.

    Returns:
        Attended values (BLOCK_L, D) and the logarithm of the softmax's denominator (BLOCK_L), fp32.
    """
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    top = tl.full([BLOCK_L], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_L], tl.float32)
    attended = tl.zeros([BLOCK_L, BLOCK_D], tl.float32)
    if P <= BLOCK_P:
        scores = matmul(key, tl.trans(held))
        scores = tl.where((tl.arange(0, BLOCK_P) < P)[None, :], scores, -float("inf"))
        weights, top, total, _ = softmax_step(scores, top, total)
        attended = matmul(weights, held)
    else:
        for first in range(0, P, BLOCK_P):
            v = load_rows(frame_ptr, first, P, D, D, BLOCK_P)
            scores = matmul(key, tl.trans(v))
            real = first + tl.arange(0, BLOCK_P) < P
            scores = tl.where(real[None, :], scores, -float("inf"))
            weights, top, total, keep = softmax_step(scores, top, total)
            attended = attended * keep[:, None] + matmul(weights, v)
    return attended / total[:, None], top + tl.log(total)


@triton.jit
def layer_norm(
    x: tl.tensor, weight_ptr: tl.tensor, bias_ptr: tl.tensor, D: tl.constexpr, EPS: tl.constexpr
) -> tl.tensor:
    """LayerNorm of rows x (R, D), fp32, with population variance; 0 beyond D."""
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    column = tl.arange(0, BLOCK_D)
    real = column < D
    x = tl.where(real[None, :], x, 0.0)
    mean = tl.sum(x, axis=1) / D
    centred = tl.where(real[None, :], x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / D
    weight = tl.load(weight_ptr + column, mask=real, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + column, mask=real, other=0.0).to(tl.float32)
    return centred * tl.rsqrt(variance + EPS)[:, None] * weight[None, :] + bias[None, :]


@triton.jit
def real_tokens(
    mask_ptr: tl.tensor, first: tl.tensor, length: tl.tensor, BLOCK_L: tl.constexpr
) -> tl.tensor:
    """Return which of the query tokens first..first + BLOCK_L are real: (BLOCK_L,)."""
    token = first + tl.arange(0, BLOCK_L)
    real = token < length
    if mask_ptr is not None:
        real = tl.load(mask_ptr + token, mask=real, other=0) != 0
    return real


@triton.jit
def sum_of_parts(
    pointer: tl.tensor,
    at: tl.tensor,
    inside: tl.tensor,
    parts: tl.tensor,
    size: tl.tensor,
    PARTS: tl.constexpr,
) -> tl.tensor:
    """Add up tiles `at` of the first `parts` of at most PARTS arrays, `size` numbers apart.

    All of them are under way at once.
    """
    part = tl.arange(0, PARTS)
    real = (part < parts)[:, None, None] & inside[None, :, :]
    pointers = pointer + (part * size)[:, None, None] + at[None, :, :]
    return tl.sum(tl.load(pointers, mask=real, other=0.0), axis=0)


@triton.jit
def positions(clip: tl.tensor, clips: tl.tensor, D: tl.constexpr) -> tl.tensor:
    """Sine encoding (R, D) of clips: x = 2π·(clip + 1) / (clips + 1e-6), as the model defines it.

    Channels 2i and 2i + 1 hold sin and cos of x / 10000^(2i / D). 0 beyond D.
    """
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    LOG_TEMPERATURE: tl.constexpr = 9.210340371976184  # ln 10000
    column = tl.arange(0, BLOCK_D)
    pair = (column // 2 * 2).to(tl.float32)
    turns = (clip + 1).to(tl.float32) / (clips + 1e-6)
    turns = turns[:, None] * tl.exp(pair * (-LOG_TEMPERATURE / D))[None, :]
    encoded = _sine(turns + tl.where(column % 2 == 1, 0.25, 0.0)[None, :])
    return tl.where((column < D)[None, :], encoded, 0.0)


@triton.jit
def _sine(turns: tl.tensor) -> tl.tensor:
    """sin(2π·turns) to 1e-7.

    The libraries' sine keeps a slow path for huge arguments, which costs every thread stack memory.
    """
    turns = turns - tl.floor(turns + 0.5)  # -1/2..1/2
    turns = tl.where(turns > 0.25, 0.5 - turns, tl.where(turns < -0.25, -0.5 - turns, turns))
    x = turns * 6.283185307179586  # -π/2..π/2
    y = x * x
    series = 1.0 / 362880 - y / 39916800
    series = -1.0 / 5040 + y * series
    series = 1.0 / 120 + y * series
    series = -1.0 / 6 + y * series
    return x + x * y * series
