"""From the grounder's numbers to moments: points, boundaries, rounding, suppression.

The order is that of the model's own evaluation: clamp to the video, round to the data set's unit,
suppress, sort.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from r2rt.model.contract import level_lengths

if TYPE_CHECKING:
    from r2rt.model.manifest import Nms

__all__ = ["boundaries_from_points", "interval_iou", "place", "postprocess", "suppress"]

Float = NDArray[np.float64]

# Up to so many moments are compared all at once.
_SMALL = 512


def boundaries_from_points(
    class_logits: NDArray[np.floating[Any]],
    offsets: NDArray[np.floating[Any]],
    *,
    num_clips: int,
    strides: Sequence[int],
    fps: Fraction,
    max_moments: int,
) -> Float:
    """Return the best boundaries before any clamping, rounding or suppression.

    start = (point - c0 · stride) / fps, end = (point + c1 · stride) / fps, score = σ(class), with
    point = j · stride for point j of a level.

    Args:
        class_logits: (M,), the points of all levels one after another.
        offsets: (M, 2), distances to start and end in strides.
        num_clips: clips T of the video.
        strides: strides of the levels, in clips.
        fps: clips a second.
        max_moments: how many of the best are kept.

    Returns:
        (min(M, max_moments), 3) float64: start s, end s, score, best first.
    """
    points, stride = _points(num_clips, tuple(strides))
    logits = class_logits.astype(np.float64)
    scores = 1.0 / (1.0 + np.exp(-logits))
    spans = offsets.astype(np.float64) * stride[:, None]
    rate = float(fps)
    rows = np.stack([(points - spans[:, 0]) / rate, (points + spans[:, 1]) / rate, scores], axis=1)
    best = np.argsort(-logits, kind="stable")[:max_moments]
    return np.asarray(rows[best], dtype=np.float64)


def postprocess(
    boundaries: Float, *, duration_s: float, unit_s: float | None, nms: Nms | None
) -> Float:
    """Return moments (N, 3) from raw boundaries (M, 3): clamped, rounded, suppressed, best first.

    Without `nms` nothing is suppressed. Moments that end at the video's end keep their exact times:
    the video need not end on a unit. Moments that came out empty are dropped.
    """
    rows = place(boundaries, 0.0, duration_s, unit_s)
    return rows if nms is None else suppress(rows, nms)


def place(boundaries: Float, start_s: float, end_s: float, unit_s: float | None) -> Float:
    """Return moments (N, 3) clamped to [start_s, end_s] and rounded, in the order they came in.

    Those that end at `end_s` keep their times; those that came out empty are dropped.
    """
    rows = boundaries.copy()
    rows[:, :2] = rows[:, :2].clip(start_s, end_s)
    if unit_s:
        inside = rows[:, 1] < end_s
        rows[inside, :2] = np.round(rows[inside, :2] / unit_s) * unit_s
        rows[:, :2] = rows[:, :2].clip(start_s, end_s)
    return rows[rows[:, 1] > rows[:, 0]]


def suppress(rows: Float, nms: Nms) -> Float:
    """Return `rows` (N, 3) after non-maximum suppression, best first.

    `normal` drops what overlaps a better row by `iou_threshold` or more; the soft kinds keep every
    row and lower its score by each better row that it overlaps.
    """
    rows = rows[np.argsort(-rows[:, 2], kind="stable")]
    # All at once is many times as fast as a row at a time, and takes its square in memory.
    iou = interval_iou(rows[:, :2], rows[:, :2]) if len(rows) <= _SMALL else None

    def overlaps(index: int) -> Float:
        row = slice(index, index + 1)
        found = interval_iou(rows[row, :2], rows[:, :2]) if iou is None else iou[row]
        return np.asarray(found[0])

    if nms.kind != "normal":
        return _suppress_softly(rows, overlaps, nms)
    alive = np.ones(len(rows), bool)
    for index in range(len(rows)):
        if alive[index]:
            alive[index + 1 :] &= overlaps(index)[index + 1 :] < nms.iou_threshold
    return rows[alive]


def _suppress_softly(rows: Float, overlaps: Callable[[int], Float], nms: Nms) -> Float:
    rows = rows.copy()
    pending = rows[:, 2].copy()  # scores, -1 once a row is taken
    order = []
    for _ in range(len(rows)):
        best = int(np.argmax(pending))
        rows[best, 2] = pending[best]
        order.append(best)
        iou = overlaps(best)
        factor = 1.0 - iou if nms.kind == "linear" else np.exp(-np.square(iou) / nms.sigma)
        pending = np.where(pending < 0, pending, pending * factor)
        pending[best] = -1.0
    return rows[order]


def interval_iou(a: Float, b: Float) -> Float:
    """Return the (A, B) intersection over union of intervals (A, 2) and (B, 2), 0 if empty."""
    start = np.maximum(a[:, None, 0], b[None, :, 0])
    end = np.minimum(a[:, None, 1], b[None, :, 1])
    intersection = (end - start).clip(min=0.0)
    length_a, length_b = a[:, 1] - a[:, 0], b[:, 1] - b[:, 0]
    union = length_a[:, None] + length_b[None, :] - intersection
    return np.asarray(
        np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    )


@lru_cache(maxsize=16)
def _points(num_clips: int, strides: tuple[int, ...]) -> tuple[Float, Float]:
    lengths = level_lengths(num_clips, strides)
    stride = np.repeat(np.array(strides, dtype=np.float64), lengths)
    index = np.concatenate([np.arange(length, dtype=np.float64) for length in lengths])
    points = index * stride
    points.flags.writeable = stride.flags.writeable = False  # they are shared
    return points, stride
