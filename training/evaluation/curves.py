"""What the plots show beyond the figures: precision over recall, and how first moments fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.metrics import Annotation, Prediction, temporal_iou
from training.metrics.moments import (
    LENGTHS_S,
    interpolated_precision,
    moment_arrays,
    right_moments,
)
from training.metrics.spans import temporal_iou_by_lengths

__all__ = ["OUTCOMES", "Breakdown", "breakdown", "precision_over_recall"]

Floats = NDArray[np.float64]

RECALLS = np.linspace(0, 1, 101)
# What became of a query, by its first moment and the annotated moment that it fits best.
OUTCOMES: Mapping[str, str] = {
    "right": "IoU of 0.7 or more",
    "close": "IoU of 0.5 to 0.7",
    "ranked lower": "IoU below 0.5, but one of the next four reaches it",
    "too long": "overlaps, over 1.5 times as long",
    "too short": "overlaps, under 2/3 as long",
    "shifted": "overlaps, about as long",
    "elsewhere": "no overlap, or no moment predicted",
}
_RIGHT_IOU, _CLOSE_IOU, _LENGTH_RATIO = 0.7, 0.5, 1.5


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Outcomes of queries that have an annotated moment of some length.

    Attributes:
        num_queries: of them all.
        counts: queries by outcome; see `OUTCOMES`.
    """

    num_queries: int
    counts: Mapping[str, int] = field(repr=False)


def precision_over_recall(
    predictions: Sequence[Prediction], annotations: Sequence[Annotation], ious: Sequence[float]
) -> Floats:
    """Return precision (len(ious), 101) at recalls 0, 0.01, ... 1, the mean over queries.

    A query's precision is interpolated as in average precision, so that the area under a curve is
    the mAP at its IoU.
    """
    predicted, scores, annotated = moment_arrays(predictions, annotations)
    order = np.argsort(-scores, axis=1, kind="stable")[..., None]
    ranked = np.take_along_axis(predicted, order, axis=1)
    right = right_moments(temporal_iou_by_lengths(ranked[:, :, None], annotated[:, None]), ious)
    precision = interpolated_precision(right)  # (N, I, P)
    truths = np.isfinite(annotated[..., 0]).sum(axis=1)
    recall = right.cumsum(axis=-1) / truths[:, None, None]
    curve = np.zeros((len(ious), len(RECALLS)))
    for index, level in enumerate(RECALLS):
        # The first moment at which this recall is reached; its precision is the envelope's.
        reached = recall >= max(level - 1e-9, 1e-9)
        curve[:, index] = np.where(reached, precision, 0.0).max(axis=-1).mean(axis=0)
    return curve


def breakdown(
    predictions: Sequence[Prediction], annotations: Sequence[Annotation]
) -> dict[str, Breakdown]:
    """Sort queries by what became of their first moment, overall and by the moment's length."""
    predicted, _, annotated = moment_arrays(predictions, annotations)
    ious = np.nan_to_num(temporal_iou(predicted[:, :5, None], annotated[:, None]))  # (N, 5, G)
    lengths = annotated[..., 1] - annotated[..., 0]
    result = {"all": _breakdown(predicted[:, 0], lengths, ious, np.isfinite(lengths))}
    for name, (above, up_to) in LENGTHS_S.items():
        within = (lengths > above) & (lengths <= up_to)
        rows = within.any(axis=1)
        result[name] = _breakdown(predicted[rows, 0], lengths[rows], ious[rows], within[rows])
    return result


def _breakdown(
    first: Floats, lengths: Floats, ious: Floats, counted: NDArray[np.bool_]
) -> Breakdown:
    """Sort first moments (N, 2) by IoUs (N, 5, G) with the annotated ones that are counted."""
    ious = np.where(counted[:, None], ious, 0.0)
    best = ious[:, 0].argmax(axis=1)
    iou = ious[:, 0].max(axis=1)
    ratio = (first[:, 1] - first[:, 0]) / lengths[np.arange(len(first)), best]
    rules = {
        "right": iou >= _RIGHT_IOU,
        "close": iou >= _CLOSE_IOU,
        "ranked lower": (ious >= _CLOSE_IOU).any(axis=(1, 2)),
        "elsewhere": iou == 0,
        "too long": ratio > _LENGTH_RATIO,
        "too short": ratio < 1 / _LENGTH_RATIO,
    }
    outcome = np.select(list(rules.values()), list(rules), default="shifted")
    return Breakdown(
        num_queries=len(first),
        counts={name: int((outcome == name).sum()) for name in OUTCOMES},
    )
