"""Arithmetic and traffic of the Triton kernels in fp16, counted from shapes.

As in `counts`: a multiplication with its addition is two operations, and of arithmetic only the
matrix products count. Bytes are what memory must give and take at least once; what programs read
again is served by the L2 cache, for which no bandwidth is published. Formulas and layouts are those
of the modules in `kernels/`.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.eager_counts import Shape

__all__ = [
    "Launch",
    "finalize",
    "frame_pool",
    "frame_step",
    "layer_pool",
    "recurrence",
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


def frame_step(shape: Shape, *, queries: int = 1, first: bool = False) -> Launch:
    """Count the cross-attention of a step, and three projections for time."""
    d, rows = shape.width, queries * shape.clips
    # Keys and values of the cross-attention are the query's tokens, whole for every head.
    cross = 4 * d * d + 2 * shape.heads * shape.length * d
    # The pooled frames and the step before are read, c is written.
    steps = _SINGLE * rows * d * (2 if first else 3) + _HALF * rows * 3 * d
    weights = _HALF * 7 * d * d + _SINGLE * 9 * d
    tokens = queries * shape.length * (_HALF * d + _SINGLE)
    return Launch(
        kernel="frame_step",
        flops=2 * rows * (cross + 3 * d * d),
        nbytes=tokens + weights + steps,
    )


def time_step(shape: Shape, *, queries: int = 1) -> Launch:
    """Count attention over time, its output, and the feed-forward layer."""
    d, rows = shape.width, queries * shape.clips
    return Launch(
        kernel="time_step",
        flops=2 * rows * (2 * shape.clips * d + 9 * d * d),
        nbytes=rows * (2 * _SINGLE * d + _HALF * 3 * d) + _HALF * 9 * d * d + _SINGLE * 10 * d,
    )


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
    """Return the launches of the whole recurrence: pooling, then two a layer."""
    launches = [layer_pool(shape, queries=queries)]
    for step in range(shape.layers):
        launches += [
            frame_step(shape, queries=queries, first=step == 0),
            time_step(shape, queries=queries),
        ]
    return launches


def _frames(shape: Shape) -> int:
    return _HALF * shape.clips * shape.patches * shape.width


def _tokens(shape: Shape, queries: int) -> int:
    """Return the bytes of q and q_key in one layer, and of the mask."""
    return queries * shape.length * (2 * _HALF * shape.width + _SINGLE)
