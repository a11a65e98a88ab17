"""How moments of different videos are compared: one score from both stages.

    score = sigmoid(logit(p) + W * sum of z)

p is the grounder's score of the moment. z is the window's cosine with the query (the greatest over
the window), standardised over the windows of the library: a grounder's score says which moment of
a window fits, the cosine which window does. Both rank better together than either alone.

W = 1 was the best of 0.25, 0.5, 1 and 2 on two corpora of the emoji world, 60 videos with 480
queries and 40 videos with 316 queries, which the demo model was not trained on:

| R@1 at IoU 0.5 | Twemoji | noto |
|---|---|---|
| cosine alone chooses the window | 41.5 | 54.7 |
| p alone | 43.8 | 54.4 |
| W = 0.25 | 45.8 | 60.1 |
| W = 0.5 | 47.1 | 62.0 |
| W = 1 | 50.0 | 62.7 |
| W = 2 | 48.1 | 63.6 |

Moments that are found by images and those found by words of subtitles are ranked together by their
reciprocal ranks, 1 / (60 + rank), the usual constant of Cormack et al., SIGIR 2009.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2rt.grounding.presence import STATISTICS, confidence, threshold

if TYPE_CHECKING:
    from r2rt.model.manifest import Presence

__all__ = ["SAME_IOU", "fused_score", "presence_in_library", "reciprocal_rank", "suppressed"]

_Z_WEIGHT = 1.0
_RANK_CONSTANT = 60
_LEAST = 1e-6  # the logit of 0 and 1 is infinite
# Two moments of a video that overlap so much are one, found in two windows.
SAME_IOU = 0.5


def fused_score(score: float, z: float) -> float:
    """Return the score in (0, 1) of a moment that can be compared across videos.

    Args:
        score: of the grounder, in [0, 1].
        z: the standardised cosine of its window; the sum of those of several queries.
    """
    p = min(max(score, _LEAST), 1 - _LEAST)
    return 1 / (1 + math.exp(-(math.log(p / (1 - p)) + _Z_WEIGHT * z)))


def reciprocal_rank(*ranks: int | None) -> float:
    """Return the sum of 1 / (60 + rank) over the rankings that have an item; ranks begin at 1."""
    return sum(1 / (_RANK_CONSTANT + rank) for rank in ranks if rank is not None)


def presence_in_library(
    presence: Presence, statistics: NDArray[np.float64], windows: int
) -> tuple[bool, float]:
    """Return whether a query is anywhere in the library, and the confidence.

    Args:
        presence: the model's calibration.
        statistics: (W, S) of the windows that were grounded.
        windows: how many windows the library has. The others, which the first stage left out,
            had their chance to be the greatest by luck, too.
    """
    column = STATISTICS.index(presence.statistic)
    best = statistics[int(np.argmax(statistics[:, column]))]
    _, below = confidence(presence, best[None])
    windows = max(windows, len(statistics))
    return bool(best[column] > threshold(presence, windows)), float(below**windows)


def suppressed(spans: Sequence[tuple[str, float, float]]) -> list[int]:
    """Return which of spans remain, best first, if those that are the same as a better one go.

    Args:
        spans: entry, start and end in seconds, best first.
    """
    kept: list[int] = []
    of_entry: dict[str, list[tuple[float, float]]] = {}
    for number, (entry, start_s, end_s) in enumerate(spans):
        others = of_entry.setdefault(entry, [])
        if all(_iou(start_s, end_s, *other) < SAME_IOU for other in others):
            kept.append(number)
            others.append((start_s, end_s))
    return kept


def _iou(start: float, end: float, other_start: float, other_end: float) -> float:
    common = max(0.0, min(end, other_end) - max(start, other_start))
    union = end - start + other_end - other_start - common
    return common / union if union > 0 else 0.0
