"""`cast`: fp32 to the type that the other kernels take their products in, number by number.

What passes between graphs is fp32, so that any backend can take it from any other, and tensor cores
take 16 bits. Rounding once, in front, is as precise as rounding in every product that reads a
number: v is read by as many programs as there are queries, and q by all of them.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

__all__ = ["BLOCK", "cast"]

# 16 numbers a thread of four warps: two stores of 16 bytes each.
BLOCK = 2048


def cast(source: Tensor, target: Tensor) -> None:
    """Write the numbers of `source`, fp32 and contiguous, to `target`, contiguous, of any type."""
    _cast[(triton.cdiv(source.numel(), BLOCK),)](
        source, target, source.numel(), BLOCK=BLOCK, num_warps=4
    )


@triton.jit
def _cast(
    source_ptr: tl.tensor, target_ptr: tl.tensor, count: tl.tensor, BLOCK: tl.constexpr
) -> None:
    """Grid (blocks of BLOCK numbers)."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = index < count
    x = tl.load(source_ptr + index, mask=real, other=0.0)
    tl.store(target_ptr + index, x.to(target_ptr.dtype.element_ty), mask=real)
