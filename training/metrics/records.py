"""A line of annotations and a line of predictions, in the fields of QVHighlights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from training.metrics.errors import EvaluationInputError

__all__ = ["Annotation", "Prediction", "Qid", "paired"]

Qid: TypeAlias = int | str


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """What people marked for one query. Times are seconds from the video's start.

    Attributes:
        qid: the query's id.
        duration: the video's length in seconds; highlights of QVHighlights need it.
        query: the sentence.
        vid: the video's name.
        video: the video's file, where it is given instead of `vid`.
        relevant_windows: (start, end) of each moment; None where only saliency is annotated.
        relevant_clip_ids: clips that have saliency scores (QVHighlights).
        saliency_scores: of each of those clips, 0 to 4 by each annotator (QVHighlights).
        label: of each clip, one value an annotator (TVSum), or one value (YouTube Highlights).
        domain: the video's domain (TVSum, YouTube Highlights).
    """

    qid: Qid
    duration: float = 0.0
    query: str = ""
    vid: str = ""
    video: str = ""
    relevant_windows: list[tuple[float, float]] | None = None
    relevant_clip_ids: list[int] | None = None
    saliency_scores: list[list[float]] | None = None
    label: list[list[float]] | None = None
    domain: str | None = None


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model answered to one query: a line of a QVHighlights submission.

    Attributes:
        qid: the query's id.
        query: the sentence.
        vid: the video's name.
        pred_relevant_windows: (start s, end s, score) of moments, best first.
        pred_saliency_scores: one value a clip.
    """

    qid: Qid
    query: str = ""
    vid: str = ""
    pred_relevant_windows: list[tuple[float, float, float]] | None = None
    pred_saliency_scores: list[float] | None = None


def paired(
    predictions: Sequence[Prediction], annotations: Sequence[Annotation]
) -> list[tuple[Prediction, Annotation]]:
    """Return each annotation with the prediction of its qid, in the order of annotations.

    Raises:
        EvaluationInputError: a qid has no prediction, no annotation, or two of either.
    """
    by_qid = {prediction.qid: prediction for prediction in predictions}
    known = {annotation.qid for annotation in annotations}
    if len(by_qid) < len(predictions) or len(known) < len(annotations):
        raise EvaluationInputError("a qid occurs twice; give every query one line")
    if missing := known - by_qid.keys():
        raise EvaluationInputError(f"no prediction for qid {_first(missing)}")
    if extra := by_qid.keys() - known:
        raise EvaluationInputError(f"no annotation for the predicted qid {_first(extra)}")
    return [(by_qid[annotation.qid], annotation) for annotation in annotations]


def _first(qids: set[Qid]) -> str:
    shown = repr(min(qids, key=str))
    return shown if len(qids) == 1 else f"{shown} and {len(qids) - 1} more"
