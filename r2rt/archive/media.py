"""Hits as the answers about their videos, from which clips, reels and thumbnails are made."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from r2rt.archive.result import Hit, SearchResult
from r2rt.grounding.prediction import Moment, Prediction, Timings

__all__ = ["predictions_of"]


def predictions_of(found: SearchResult) -> dict[str, Prediction]:
    """Return an answer for every video that has hits, in the order of the best ones.

    Saliency is not known: it is 1 in the moments and 0 elsewhere, in clips of a second.
    """
    of_video: dict[str, list[Hit]] = {}
    for hit in found:
        of_video.setdefault(hit.path, []).append(hit)
    return {path: _prediction(found, hits) for path, hits in of_video.items()}


def _prediction(found: SearchResult, hits: list[Hit]) -> Prediction:
    starts = np.arange(max(1, int(np.ceil(hits[0].duration_s))), dtype=np.float64)
    inside = [(starts + 1 > hit.start_s) & (starts < hit.end_s) for hit in hits]
    return Prediction(
        query=found.query or " + ".join(found.images),
        moments=tuple(
            Moment(start_s=hit.start_s, end_s=hit.end_s, score=hit.score) for hit in hits
        ),
        saliency=np.any(inside, axis=0).astype(np.float32),
        clip_starts_s=starts,
        boundaries=np.empty((0, 3)),
        query_truncated=False,
        video=hits[0].path,
        duration_s=hits[0].duration_s,
        fps=Fraction(1),
        sampling="nearest",
        model=found.model,
        timings=Timings(encode_s=0.0, text_s=0.0, ground_s=0.0),
    )
