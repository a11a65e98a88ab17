"""TVSum and YouTube Highlights: average precision of a video's ranked clips, by domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.metrics.errors import EvaluationInputError
from training.metrics.records import Annotation, Prediction, paired

__all__ = ["DomainFigures", "tvsum_metrics", "youtube_metrics"]

Floats = NDArray[np.float64]

_TVSUM_TOP = 5


@dataclass(frozen=True, kw_only=True)
class DomainFigures:
    """Mean average precision as a fraction, not rounded.

    Attributes:
        overall: the mean over all videos.
        domains: the mean over the videos of each domain, by its name.
    """

    overall: float
    domains: Mapping[str, float]


def tvsum_metrics(
    predictions: Sequence[Prediction], annotations: Sequence[Annotation]
) -> DomainFigures:
    """Top-5 mAP: the mean over annotators, of whom each marks what exceeds their own median.

    Only the five clips ranked first are looked at, recall too counts positives among them alone.
    A last clip that has saliency but no label, or a label but no saliency, is left out.

    Raises:
        EvaluationInputError: the qids of both do not match one to one, there are none, or a
            video's saliency and labels differ in length by more than that clip.
    """

    def video(saliency: Floats, label: Floats) -> float:
        # The lower of two middle values is the median.
        middle = np.sort(label, axis=0)[(len(label) - 1) // 2]
        return float(_average_precision(_ranked(saliency, label > middle)[:_TVSUM_TOP]).mean())

    return _by_domain(predictions, annotations, video)


def youtube_metrics(
    predictions: Sequence[Prediction], annotations: Sequence[Annotation]
) -> DomainFigures:
    """Compute mAP over the clips of each video; a label above 0 is positive.

    Raises:
        EvaluationInputError: as `tvsum_metrics`.
    """

    def video(saliency: Floats, label: Floats) -> float:
        return float(_average_precision(_ranked(saliency, label[:, :1] > 0))[0])

    return _by_domain(predictions, annotations, video)


def _by_domain(
    predictions: Sequence[Prediction],
    annotations: Sequence[Annotation],
    video: Callable[[Floats, Floats], float],
) -> DomainFigures:
    pairs = paired(predictions, annotations)
    if not pairs:
        raise EvaluationInputError("there is nothing to evaluate: no videos")
    found: dict[str, list[float]] = {}
    for prediction, annotation in pairs:
        saliency, label = prediction.pred_saliency_scores, annotation.label
        if not label or not saliency or abs(len(label) - len(saliency)) > 1:
            raise EvaluationInputError(
                f"qid {annotation.qid!r}: {len(label or ())} clips are labelled, "
                f"{len(saliency or ())} have saliency"
            )
        if not np.isfinite(saliency).all():
            raise EvaluationInputError(f"qid {annotation.qid!r}: saliency that is not finite")
        both = slice(min(len(label), len(saliency)))
        value = video(np.array(saliency[both], dtype=float), np.array(label[both], dtype=float))
        found.setdefault(annotation.domain or "", []).append(value)
    return DomainFigures(
        overall=float(np.mean([value for values in found.values() for value in values])),
        domains={name: float(np.mean(values)) for name, values in found.items() if name},
    )


def _ranked(saliency: Floats, positive: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Order positives (T, A) by falling saliency (T,); of equals, the earlier clip is first."""
    return positive[np.argsort(-saliency, kind="stable")]


def _average_precision(hits: NDArray[np.bool_]) -> Floats:
    """Area (A,) under precision over recall by trapezes, of hits (T, A) in ranked order.

    0 where there is no hit at all. Precision before the first clip is 1.
    """
    found = hits.cumsum(axis=0)
    precision = found / np.arange(1, len(hits) + 1)[:, None]
    before = np.concatenate([np.ones_like(precision[:1]), precision[:-1]])
    trapezes = np.where(hits, (precision + before) / 2, 0.0)
    area: Floats = trapezes.sum(axis=0) / np.maximum(found[-1], 1)
    return area
