"""Moment retrieval: recall, average precision and mean IoU, overall and by the moment's length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from training.metrics.errors import EvaluationInputError
from training.metrics.records import Annotation, Prediction, paired
from training.metrics.spans import temporal_iou, temporal_iou_by_lengths

__all__ = [
    "AP_IOUS",
    "LENGTHS_S",
    "RECALL_IOUS",
    "MomentFigures",
    "interpolated_precision",
    "moment_arrays",
    "moment_metrics",
    "right_moments",
]

Floats = NDArray[np.float64]

RECALL_IOUS = tuple(percent / 100 for percent in range(30, 100, 5))
AP_IOUS = tuple(percent / 100 for percent in range(50, 100, 5))
# Above the first number of seconds, and up to the second.
LENGTHS_S: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"short": (0, 10), "middle": (10, 30), "long": (30, np.inf)}
)
# Average precision looks at the first ten moments of a query.
_MOST_MOMENTS = 10


@dataclass(frozen=True, kw_only=True)
class MomentFigures:
    """Figures in percent, not rounded.

    Attributes:
        num_queries: queries they are the mean of.
        recall: by k (1 and 5), (14,) at `RECALL_IOUS`: queries of which one of the first k moments
            reaches the IoU with an annotated moment.
        average_precision: (10,) at `AP_IOUS`, the mean over queries.
        mean_average_precision: the mean of `average_precision` over IoUs 0.5 to 0.95.
        mean_iou: of the first moment with the annotated moment it fits best.
    """

    num_queries: int
    recall: Mapping[int, Floats] = field(repr=False)
    average_precision: Floats = field(repr=False)
    mean_average_precision: float
    mean_iou: float


def moment_metrics(
    predictions: Sequence[Prediction], annotations: Sequence[Annotation]
) -> dict[str, MomentFigures]:
    """Evaluate moments as the authors of QVHighlights and R²-Tuning do.

    `full` is over every query, `short`, `middle` and `long` (see `LENGTHS_S`) over the queries that
    have a moment of such a length, with only those moments annotated. Where no query has one, the
    authors report the figures of `full`; so does this. Recall takes moments in the order in which
    they are given, average precision in that of their scores. A query without a predicted moment
    counts as missed.

    Returns:
        Figures by `full`, `short`, `middle` and `long`.

    Raises:
        EvaluationInputError: the qids of both do not match one to one, or there are none, or a
            query lacks moments, annotated or predicted.
    """
    predicted, scores, annotated = moment_arrays(predictions, annotations)
    # NaN marks what is not there, and no comparison with NaN holds.
    spans = predicted[:, :, None], annotated[:, None]
    recall_ious, ap_ious = temporal_iou(*spans), temporal_iou_by_lengths(*spans)
    lengths = annotated[..., 1] - annotated[..., 0]
    full = _figures(recall_ious, ap_ious, scores)
    figures = {"full": full}
    for name, (above, up_to) in LENGTHS_S.items():
        within = (lengths > above) & (lengths <= up_to)
        rows = within.any(axis=1)
        if rows.any():
            figures[name] = _figures(
                np.where(within[:, None], recall_ious, np.nan)[rows],
                np.where(within[:, None], ap_ious, np.nan)[rows],
                scores[rows],
            )
        else:
            figures[name] = full
    return figures


def moment_arrays(
    predictions: Sequence[Prediction], annotations: Sequence[Annotation]
) -> tuple[Floats, Floats, Floats]:
    """Return moments as arrays in the order of annotations, padded with NaN.

    Returns:
        Predicted (N, P, 2), their scores (N, P), annotated (N, G, 2); of every query the first ten
        predicted ones, in the order in which they are given.

    Raises:
        EvaluationInputError: as `moment_metrics`.
    """
    pairs = paired(predictions, annotations)
    if not pairs:
        raise EvaluationInputError("there is nothing to evaluate: no queries")
    moments, truths = [], []
    for prediction, annotation in pairs:
        if prediction.pred_relevant_windows is None:
            raise EvaluationInputError(f"qid {prediction.qid!r}: no `pred_relevant_windows`")
        if not annotation.relevant_windows:
            raise EvaluationInputError(f"qid {annotation.qid!r}: no `relevant_windows`")
        moments.append(prediction.pred_relevant_windows[:_MOST_MOMENTS])
        truths.append(annotation.relevant_windows)
    padded = _padded(moments, 3)
    return padded[..., :2], padded[..., 2], _padded(truths, 2)


def right_moments(ious: Floats, at: Sequence[float]) -> NDArray[np.bool_]:
    """Return which predictions are right (N, len(at), P), of IoUs (N, P, G) best moment first.

    A moment is right when, among the annotated moments that no earlier one has taken, the one it
    overlaps most reaches the IoU; it takes that one.
    """
    count, moments, truths = ious.shape
    free = np.repeat(_annotated(ious)[:, None], len(at), axis=1)
    right = np.zeros((count, len(at), moments), dtype=bool)
    for index in range(moments):
        open_ious = np.where(free, ious[:, None, index], -1.0)
        open_ious[np.isnan(open_ious)] = -1.0
        # Of equals the authors take the last.
        chosen = truths - 1 - np.argmax(open_ious[..., ::-1], axis=-1)[..., None]
        hit = np.take_along_axis(open_ious, chosen, axis=-1) >= np.asarray(at)[:, None]
        right[..., index] = hit[..., 0]
        np.put_along_axis(free, chosen, np.take_along_axis(free, chosen, axis=-1) & ~hit, axis=-1)
    return right


def interpolated_precision(right: NDArray[np.bool_]) -> Floats:
    """Return precision (..., P) after each moment: the highest at this recall or a higher one."""
    precision = right.cumsum(axis=-1) / np.arange(1, right.shape[-1] + 1)
    envelope: Floats = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    return envelope


def _padded(rows: Sequence[Sequence[tuple[float, ...]]], width: int) -> Floats:
    counts = np.array([len(row) for row in rows])
    padded = np.full((len(rows), max(int(counts.max()), 1), width), np.nan)
    given = np.arange(padded.shape[1]) < counts[:, None]
    padded[given] = np.array([item for row in rows for item in row]).reshape(-1, width)
    if np.isnan(padded[given]).any():
        row = int(np.isnan(padded[given]).any(axis=1).argmax())
        raise EvaluationInputError(f"moment {padded[given][row].tolist()}; expected no NaN")
    return padded


def _figures(recall_ious: Floats, ap_ious: Floats, scores: Floats) -> MomentFigures:
    """Figures of IoUs (N, P, G) and scores (N, P), NaN where there is no such moment."""
    best = np.fmax.reduce(recall_ious, axis=2, initial=0.0)  # (N, P)
    at = np.array(RECALL_IOUS)
    recall = {k: 100 * (best[:, :k].max(axis=1)[:, None] >= at).mean(axis=0) for k in (1, 5)}
    order = np.argsort(-scores, axis=1, kind="stable")  # NaN sorts last
    precision = _average_precision(np.take_along_axis(ap_ious, order[..., None], axis=1)).mean(
        axis=0
    )
    return MomentFigures(
        num_queries=len(best),
        recall=recall,
        average_precision=100 * precision,
        mean_average_precision=100 * float(precision.mean()),
        mean_iou=100 * float(best[:, 0].mean()),
    )


def _average_precision(ious: Floats) -> Floats:
    """Average precision (N, 10) of IoUs (N, P, G), best moment first.

    Sums are those of the authors' evaluation to the last bit: it decides where a figure that lies
    between two decimals, such as 39.625, is rounded to.
    """
    right = right_moments(ious, AP_IOUS)
    # Without predictions the result is 0, whatever the number of annotated moments.
    recall = right.cumsum(axis=-1) / np.maximum(_annotated(ious).sum(axis=-1), 1)[:, None, None]
    gained = np.diff(recall, axis=-1, prepend=0.0) * interpolated_precision(right)
    # One after the other: np.sum would add some of them apart.
    average: Floats = gained.cumsum(axis=-1)[..., -1].copy()
    return average


def _annotated(ious: Floats) -> NDArray[np.bool_]:
    """Return which annotated moments (N, G) there are."""
    there: NDArray[np.bool_] = np.any(np.isfinite(ious), axis=1)
    return there
