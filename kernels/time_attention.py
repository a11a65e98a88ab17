"""`time_attention`: attention over time of one step of the R² block, in one launch, for inference.

    attended = attention over time(queries, keys, values) of every head

for the clips of one query, with what `frame_step` made of them.

Source: R²-Tuning (arXiv 2404.00801).

Layout: qkv (N, T, 3·D), 1/√d being part of the queries; attended (N, T, D), heads side by side;
both in the weights' type. Products take that type and accumulate in fp32; everything else is fp32.

A program owns ROWS clips of one head. Keys and values go by in blocks of clips with a running
softmax, so T is free.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.blocks import load_rows, matmul, softmax_step

__all__ = ["BLOCK_T", "NUM_STAGES", "NUM_WARPS", "ROWS", "time_attention"]

ROWS = 32
BLOCK_T = 64
NUM_WARPS = 4
NUM_STAGES = 3


def time_attention(qkv: Tensor, *, heads: int) -> Tensor:
    """Attend over time; see the module's formula.

    Args:
        qkv: queries, keys and values side by side (N, T, 3·D), contiguous.
        heads: attention heads H.

    Returns:
        attended (N, T, D) in qkv's type.
    """
    queries, clips, wide = qkv.shape
    attended = qkv.new_empty((queries, clips, wide // 3))
    _time_attention[(queries, triton.cdiv(clips, ROWS), heads)](
        qkv,
        attended,
        clips,
        D=wide // 3,
        HEADS=heads,
        ROWS=ROWS,
        BLOCK_T=BLOCK_T,
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
    )
    return attended


@triton.jit(do_not_specialize=["clips"])
def _time_attention(
    qkv_ptr: tl.tensor,
    attended_ptr: tl.tensor,
    clips: tl.tensor,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_T: tl.constexpr,
) -> None:
    """Grid (N, blocks of ROWS clips, H)."""
    HEAD: tl.constexpr = D // HEADS
    BLOCK_H: tl.constexpr = max(16, triton.next_power_of_2(HEAD))
    query = tl.program_id(0).to(tl.int64)
    first_clip = tl.program_id(1) * ROWS
    head = tl.program_id(2) * HEAD
    rows_ptr = qkv_ptr + query * clips * (3 * D) + head

    q = load_rows(rows_ptr, first_clip, clips, 3 * D, HEAD, ROWS, BLOCK_H)
    top = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    attended = tl.zeros([ROWS, BLOCK_H], tl.float32)
    for first in range(0, clips, BLOCK_T):
        k = load_rows(rows_ptr + D, first, clips, 3 * D, HEAD, BLOCK_T, BLOCK_H)
        v = load_rows(rows_ptr + 2 * D, first, clips, 3 * D, HEAD, BLOCK_T, BLOCK_H)
        real = first + tl.arange(0, BLOCK_T) < clips
        scores = tl.where(real[None, :], matmul(q, tl.trans(k)), -float("inf"))
        share, top, total, keep = softmax_step(scores, top, total)
        attended = attended * keep[:, None] + matmul(share, v)
    attended = attended / total[:, None]
    clip = first_clip + tl.arange(0, ROWS)
    lane = tl.arange(0, BLOCK_H)
    pointers = attended_ptr + query * clips * D + clip[:, None] * D + (head + lane)[None, :]
    inside = (clip < clips)[:, None] & (lane < HEAD)[None, :]
    tl.store(pointers, attended.to(attended_ptr.dtype.element_ty), mask=inside)
