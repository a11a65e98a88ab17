"""Arithmetic and traffic of the Triton kernels in fp16, counted from shapes.

As in `counts`: a multiplication with its addition is two operations, and of arithmetic only the
matrix products count. Bytes are what memory must give and take at least once; what programs read
again is served by the L2 cache, for which no bandwidth is published. Formulas and layouts are those
of the modules in `kernels/`.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.eager_counts import Shape
from kernels import splitting
from kernels.time_attention import ROWS as ATTENTION_ROWS

__all__ = [
    "Launch",
    "finalize",
    "frame_pool",
    "frame_step",
    "layer_pool",
    "program_bytes",
    "query_maps",
    "recurrence",
    "settle",
    "time_attention",
    "time_step",
]

_HALF, _SINGLE = 2, 4


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        kernel: its name.
        flops: operations of its matrix products.
        nbytes: its least traffic with memory.
    """

    kernel: str
    flops: float
    nbytes: float

    def bound_s(self, *, flops_per_s: float, bytes_per_s: float) -> float:
        """Return the least time it can take."""
        return max(self.flops / flops_per_s, self.nbytes / bytes_per_s)


def layer_pool(shape: Shape, *, queries: int = 1) -> Launch:
    """Count pooling of the frames of all layers."""
    d, rows = shape.width, shape.layers * queries * shape.clips
    return Launch(
        kernel="layer_pool",
        flops=2 * rows * 2 * shape.length * shape.patches * d,
        nbytes=shape.layers * (_frames(shape) + _tokens(shape, queries)) + _SINGLE * rows * d,
    )


def query_maps(shape: Shape, *, queries: int = 1) -> Launch:
    """Count the query's keys and values of all layers."""
    d, tokens = shape.width, queries * shape.layers * shape.length
    return Launch(
        kernel="query_maps",
        flops=2 * tokens * 4 * d * d,
        nbytes=_HALF * tokens * d
        + _SINGLE * queries * shape.length
        + _HALF * 4 * d * d
        + _SINGLE * d
        + shape.layers * _maps(shape, queries),
    )


def frame_step(shape: Shape, *, queries: int = 1, first: bool = False) -> Launch:
    """Count the attention of a step to the query, and three projections for time."""
    d, rows = shape.width, queries * shape.clips
    # Scores are taken twice: for the maxima and sums of all heads, then for the shares.
    attention = 3 * shape.heads * shape.length * d
    # The pooled frames and the step before are read, c is written.
    steps = _SINGLE * rows * d * (2 if first else 3) + _HALF * rows * 3 * d
    weights = _HALF * 3 * d * d + _SINGLE * d * (6 if first else 8)
    return Launch(
        kernel="frame_step",
        flops=2 * rows * (attention + 3 * d * d),
        nbytes=_maps(shape, queries) + weights + steps,
    )


def time_attention(shape: Shape, *, queries: int = 1) -> Launch:
    """Count attention over time."""
    d, rows = shape.width, queries * shape.clips
    return Launch(
        kernel="time_attention",
        flops=2 * rows * 2 * shape.clips * d,
        nbytes=_HALF * rows * 4 * d,
    )


def time_step(shape: Shape, *, queries: int = 1) -> Launch:
    """Count the output of attention over time, and the feed-forward layer."""
    d, rows = shape.width, queries * shape.clips
    return Launch(
        kernel="time_step",
        flops=2 * rows * 9 * d * d,
        nbytes=rows * d * (2 * _SINGLE + _HALF) + _HALF * 9 * d * d + _SINGLE * 8 * d,
    )


def settle(shape: Shape, *, queries: int = 1) -> Launch:
    """Count the last normalisation, which has no product."""
    d, rows = shape.width, queries * shape.clips
    return Launch(kernel="settle", flops=0, nbytes=_SINGLE * (2 * rows * d + 2 * d))


def program_bytes(shape: Shape, *, parts: int) -> dict[str, int]:
    """Return what one program of each kernel of a step reads and writes, from wherever.

    A step takes at least as long as one multiprocessor needs for that, however many others there
    are.

    Args:
        shape: sizes.
        parts: programs that share a block of clips (`kernels.splitting`).
    """
    d, rows = shape.width, splitting.ROWS
    tokens = shape.heads * (3 * _HALF * shape.length * d + 2 * _SINGLE * shape.length)
    shared = rows * d
    return {
        "frame_step": tokens
        + _SINGLE * shared * (2 + parts)
        + (_HALF * 3 * d * d + _HALF * 3 * shared) // parts,
        "time_attention": _HALF * d // shape.heads * (2 * shape.clips + 2 * ATTENTION_ROWS),
        "time_step": _HALF * d * d + (2 * _SINGLE + _HALF) * shared + _HALF * 8 * d * d // parts,
    }


def finalize(shape: Shape) -> Launch:
    """Count the video map's second half for all layers; stored tokens are fp32."""
    d, tokens = shape.width, shape.clips * shape.layers * shape.patches
    return Launch(
        kernel="finalize",
        flops=2 * tokens * d * d,
        nbytes=tokens * (_SINGLE * (d + 2) + _HALF * d)
        + _HALF * d * d
        + _SINGLE * (7 * d + 2 * shape.clips),
    )


def frame_pool(shape: Shape, *, queries: int = 1, first: bool = False) -> Launch:
    """Count the operator of training, forward: pooling alone, and the index of the maximum."""
    d, rows = shape.width, queries * shape.clips
    return Launch(
        kernel="frame_pool",
        flops=2 * rows * 2 * shape.length * shape.patches * d,
        nbytes=_frames(shape) + _tokens(shape, queries) + rows * d * _HALF * (2 if first else 3),
    )


def recurrence(shape: Shape, *, queries: int = 1) -> list[Launch]:
    """Return the launches of the whole recurrence, in order."""
    launches = [query_maps(shape, queries=queries), layer_pool(shape, queries=queries)]
    for step in range(shape.layers):
        launches += [
            frame_step(shape, queries=queries, first=step == 0),
            time_attention(shape, queries=queries),
            time_step(shape, queries=queries),
        ]
    return [*launches, settle(shape, queries=queries)]


def _maps(shape: Shape, queries: int) -> int:
    """Return the bytes of a query's keys, values and biases in one layer."""
    return queries * shape.heads * shape.length * (2 * _HALF * shape.width + _SINGLE)


def _frames(shape: Shape) -> int:
    return _HALF * shape.clips * shape.patches * shape.width


def _tokens(shape: Shape, queries: int) -> int:
    """Return the bytes of q and q_key in one layer, and of the mask."""
    return queries * shape.length * (2 * _HALF * shape.width + _SINGLE)
