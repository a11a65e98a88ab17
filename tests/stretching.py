"""How the authors stretch a pyramid level's scores to the clips, in plain NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


def stretched(scores: NDArray[np.float32], clips: int) -> NDArray[np.float32]:
    """Repeat each score int(clips / len(scores)) times and pad with the last to (clips,)."""
    repeated = np.repeat(scores, int(clips / len(scores)))
    tail = np.repeat(scores[-1:], clips - len(repeated))
    return np.concatenate([repeated, tail])


def highest(levels: Sequence[NDArray[np.float32]], clips: int) -> NDArray[np.float32]:
    """Return the highest score of the levels at each clip, (clips,); empty levels count nothing."""
    rows = np.stack([stretched(level, clips) for level in levels if len(level)])
    best: NDArray[np.float32] = rows.max(axis=0)
    return best


def split_levels(
    points: NDArray[np.float32], clips: int, strides: Sequence[int]
) -> Iterator[NDArray[np.float32]]:
    """Cut the points of all levels, (M,), into one array a level."""
    start = 0
    for stride in strides:
        yield points[start : start + clips // stride]
        start += clips // stride
    assert start == len(points)
