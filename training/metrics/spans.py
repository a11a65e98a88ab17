"""Intersection over union of spans of time, in the two ways of the authors' evaluation.

Both are the same number up to the last bit of a double. That bit decides where an IoU lies exactly
on a threshold, as in annotations given to a tenth of a second: on Charades-STA it moves one query
in figures of recall, or of average precision, when the other way is taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["temporal_iou", "temporal_iou_by_lengths"]

Floats = NDArray[np.float64]


def temporal_iou(first: Floats, second: Floats) -> Floats:
    """Intersection over union, elementwise with broadcasting; recall and mean IoU take this one.

    Args:
        first: (..., 2) start and end.
        second: (..., 2) start and end.

    Returns:
        (...) in [0, 1]; 0 where nothing is shared, two empty spans included; NaN where a bound is.
    """
    # Of spans that overlap, the union is all from the first start to the last end.
    union = np.maximum(first[..., 1], second[..., 1]) - np.minimum(first[..., 0], second[..., 0])
    return _ratio(_intersection(first, second), union)


def temporal_iou_by_lengths(first: Floats, second: Floats) -> Floats:
    """Return `temporal_iou` with the union from lengths; average precision takes this one."""
    shared = _intersection(first, second)
    lengths = (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0])
    return _ratio(shared, lengths - shared)


def _intersection(first: Floats, second: Floats) -> Floats:
    last_start = np.maximum(first[..., 0], second[..., 0])
    first_end = np.minimum(first[..., 1], second[..., 1])
    shared: Floats = np.maximum(first_end - last_start, 0)
    return shared


def _ratio(shared: Floats, union: Floats) -> Floats:
    return np.divide(shared, union, out=np.zeros_like(union), where=union != 0)
