"""Which moments of an answer are worth exporting: the good ones, each part of the video once.

The models score every moment that they predict, down to noise, so a fixed number of moments would
be too many for one query and too few for another. A moment is worth exporting if

    score >= 0.5 * score of the query's best moment

and if it overlaps no better moment that is exported. At most 20 a query are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from r2rt.grounding.prediction import Moment, Prediction

__all__ = ["LEAST_SHARE", "MOST", "good_moments", "worthwhile"]

LEAST_SHARE = 0.5  # of the best moment's score
MOST = 20  # moments a query


def good_moments(moments: Sequence[Moment]) -> tuple[Moment, ...]:
    """Return the moments that score at least half as much as the best and overlap no better one.

    Args:
        moments: of one query, best first.
    """
    kept: list[Moment] = []
    for moment in moments:
        if moment.score < LEAST_SHARE * moments[0].score:
            break
        if all(moment.end_s <= a.start_s or moment.start_s >= a.end_s for a in kept):
            kept.append(moment)
    return tuple(kept)


def worthwhile(prediction: Prediction) -> Prediction:
    """Return an answer with the moments that are worth exporting, at most `MOST` of them."""
    moments = good_moments(prediction.moments)[:MOST]
    return dataclasses.replace(prediction, moments=moments)
