"""Highlight detection of QVHighlights: is the saliency high where annotators found it high?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from training.metrics.errors import EvaluationInputError
from training.metrics.records import Annotation, Prediction, paired

__all__ = ["CLIP_S", "HighlightFigures", "highlight_metrics", "num_clips"]

Floats = NDArray[np.float64]

CLIP_S = 2.0
# A clip counts as positive from this annotated score on.
_POSITIVE_FROM: Mapping[str, int] = MappingProxyType({"Fair": 2, "Good": 3, "VeryGood": 4})


@dataclass(frozen=True, kw_only=True)
class HighlightFigures:
    """Figures in percent, not rounded.

    Attributes:
        mean_average_precision: over queries and annotators.
        hit_at_1: queries whose most salient clip is positive for one annotator at least.
    """

    mean_average_precision: float
    hit_at_1: float


def num_clips(annotation: Annotation, clip_s: float = CLIP_S) -> int:
    """Return how many whole clips the annotated video has."""
    return int(annotation.duration / clip_s)


def highlight_metrics(
    predictions: Sequence[Prediction],
    annotations: Sequence[Annotation],
    *,
    clip_s: float = CLIP_S,
) -> dict[str, HighlightFigures]:
    """Evaluate saliency as the authors of QVHighlights do.

    Saliency longer than the annotated video is cut, a shorter one goes on with zeros. A query none
    of whose clips is positive for an annotator has an average precision of 0 there.

    Returns:
        Figures by `Fair`, `Good` and `VeryGood`: clips scored 2, 3 or 4 and higher are positive.

    Raises:
        EvaluationInputError: the qids of both do not match one to one, or there are none, or a
            query lacks saliency, or an annotated clip is not in the video.
    """
    pairs = paired(predictions, annotations)
    truth = _annotated(pairs, clip_s)  # (N, T, annotators)
    # What lies behind a video's end ranks last.
    saliency = np.full(truth.shape[:2], -np.inf)
    first = np.zeros(len(pairs), dtype=np.int64)
    for row, (prediction, annotation) in enumerate(pairs):
        if not prediction.pred_saliency_scores:
            raise EvaluationInputError(f"qid {prediction.qid!r}: no `pred_saliency_scores`")
        given = np.array(prediction.pred_saliency_scores)
        if not np.isfinite(given).all():
            raise EvaluationInputError(f"qid {prediction.qid!r}: saliency that is not finite")
        length = num_clips(annotation, clip_s)
        saliency[row, :length] = 0.0
        saliency[row, : min(length, len(given))] = given[:length]
        first[row] = given.argmax()
    ranked = _Ranked.of(truth, saliency)
    figures = {}
    inside = first < truth.shape[1]
    top = truth[np.arange(len(pairs)), np.where(inside, first, 0)]  # (N, annotators)
    for name, lowest in _POSITIVE_FROM.items():
        hits = ((top >= lowest) & inside[:, None]).any(axis=1)
        figures[name] = HighlightFigures(
            mean_average_precision=100 * float(ranked.average_precision(lowest).mean()),
            hit_at_1=100 * float(hits.mean()),
        )
    return figures


def _annotated(pairs: Sequence[tuple[Prediction, Annotation]], clip_s: float) -> Floats:
    """Annotated scores (N, T, annotators); 0 where nothing is annotated."""
    if not pairs:
        raise EvaluationInputError("there is nothing to evaluate: no queries")
    longest = max(num_clips(annotation, clip_s) for _, annotation in pairs)
    widths = {len(row) for _, each in pairs for row in each.saliency_scores or ()}
    if len(widths) != 1:
        raise EvaluationInputError(
            "`saliency_scores` want one value an annotator, as many in every clip; "
            f"found {sorted(widths) or 'none'}"
        )
    truth = np.zeros((len(pairs), longest, widths.pop()))
    for row, (_, annotation) in enumerate(pairs):
        clips, scores = annotation.relevant_clip_ids, annotation.saliency_scores
        length = num_clips(annotation, clip_s)
        if clips is None or scores is None or len(clips) != len(scores):
            raise EvaluationInputError(
                f"qid {annotation.qid!r}: wants `relevant_clip_ids` and as many `saliency_scores`"
            )
        if clips and not 0 <= min(clips) <= max(clips) < length:
            raise EvaluationInputError(
                f"qid {annotation.qid!r}: clips {min(clips)} to {max(clips)} are annotated, "
                f"the video has {length}"
            )
        if clips:
            truth[row, clips] = scores
    return truth


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ranked:
    """Clips from the most salient one on.

    Attributes:
        truth: annotated scores (N, T, annotators).
        last: whether a clip is the last one of its saliency, (N, T).
    """

    truth: Floats
    last: NDArray[np.bool_]

    @classmethod
    def of(cls, truth: Floats, saliency: Floats) -> _Ranked:
        """Rank clips of annotated scores (N, T, annotators) by saliency (N, T)."""
        order = np.argsort(-saliency, axis=1, kind="stable")
        ranked = np.take_along_axis(saliency, order, axis=1)
        last = np.ones(ranked.shape, dtype=bool)
        last[:, :-1] = ranked[:, :-1] != ranked[:, 1:]
        return cls(truth=np.take_along_axis(truth, order[..., None], axis=1), last=last)

    def average_precision(self, lowest: int) -> Floats:
        """Average precision (N, annotators) where clips from this annotated score on are positive.

        Clips of the same saliency are found together. The mean of the interpolated precision is
        over the saliencies at which recall rises, each counted once however many clips share it.
        """
        found = (self.truth >= lowest).cumsum(axis=1)
        found_there = np.where(self.last[..., None], found, 0)
        before = np.zeros_like(found_there)
        before[:, 1:] = np.maximum.accumulate(found_there, axis=1)[:, :-1]
        precision = found_there / np.arange(1, found.shape[1] + 1)[:, None]
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        rises = found_there > before
        mean: Floats = np.where(rises, envelope, 0.0).sum(axis=1) / np.maximum(rises.sum(axis=1), 1)
        return mean
