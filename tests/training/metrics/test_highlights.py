"""Highlight detection of QVHighlights: properties, and a plain oracle."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.metrics.cases import saliency_cases
from training.metrics import (
    Annotation,
    EvaluationInputError,
    Prediction,
    highlight_metrics,
    tvsum_metrics,
    youtube_metrics,
)

Case = tuple[list[Prediction], list[Annotation]]


@given(saliency_cases())
def test_figures_equal_plain_ones(case: Case) -> None:
    figures = highlight_metrics(*case)
    for name, lowest in (("Fair", 2), ("Good", 3), ("VeryGood", 4)):
        precisions, hits = [], []
        for prediction, annotation in zip(*case, strict=True):
            saliency = prediction.pred_saliency_scores or []
            scores = plain_scores(annotation)
            clips = len(scores)
            fitted = [*saliency, *[0.0] * clips][:clips]
            precisions += [
                plain_average_precision([row[each] >= lowest for row in scores], fitted)
                for each in range(3)
            ]
            top = saliency.index(max(saliency))
            hits.append(top < clips and max(scores[top]) >= lowest)
        assert figures[name].mean_average_precision == pytest.approx(
            100 * sum(precisions) / len(precisions)
        )
        assert figures[name].hit_at_1 == pytest.approx(100 * sum(hits) / len(hits))


@given(saliency_cases(), st.randoms(use_true_random=False))
def test_the_order_of_lines_does_not_matter(case: Case, shuffle: random.Random) -> None:
    predictions, annotations = case
    before = highlight_metrics(predictions, annotations)
    shuffle.shuffle(predictions)
    shuffle.shuffle(annotations)
    for name, figures in highlight_metrics(predictions, annotations).items():
        assert figures.hit_at_1 == pytest.approx(before[name].hit_at_1)
        assert figures.mean_average_precision == pytest.approx(before[name].mean_average_precision)


@given(saliency_cases())
def test_perfect_saliency_gives_100(case: Case) -> None:
    """Where annotators agree, and each query has a clip scored highest."""
    annotations, predictions = [], []
    for annotation in case[1]:
        agreed = [[max(row)] * 3 for row in annotation.saliency_scores or []]
        agreed[0] = [4.0] * 3
        line = Annotation(
            qid=annotation.qid,
            duration=annotation.duration,
            relevant_clip_ids=annotation.relevant_clip_ids,
            saliency_scores=agreed,
        )
        annotations.append(line)
        saliency = [row[0] for row in plain_scores(line)]
        predictions.append(Prediction(qid=line.qid, pred_saliency_scores=saliency))
    for figures in highlight_metrics(predictions, annotations).values():
        assert figures.mean_average_precision == pytest.approx(100)
        assert figures.hit_at_1 == 100


@pytest.mark.parametrize(
    ("clips", "scores", "message"),
    [
        ([0, 5], [[1.0] * 3] * 2, "clips 0 to 5 are annotated, the video has 5"),
        ([-1], [[1.0] * 3], "clips -1 to -1"),
        ([0], [[1.0] * 3] * 2, "as many"),
        ([0, 1], [[1.0] * 3, [1.0] * 2], "as many in every clip"),
        (None, None, "found none"),
    ],
)
def test_annotations_that_make_no_sense_are_refused(
    clips: list[int] | None, scores: list[list[float]] | None, message: str
) -> None:
    annotation = Annotation(qid=1, duration=10.0, relevant_clip_ids=clips, saliency_scores=scores)
    with pytest.raises(EvaluationInputError, match=message):
        highlight_metrics([Prediction(qid=1, pred_saliency_scores=[0.0] * 5)], [annotation])


def test_nan_is_refused() -> None:
    annotation = Annotation(
        qid=1, duration=4.0, relevant_clip_ids=[0], saliency_scores=[[4.0]], label=[[1.0], [0.0]]
    )
    prediction = Prediction(qid=1, pred_saliency_scores=[1.0, float("nan")])
    for metrics in (highlight_metrics, youtube_metrics, tvsum_metrics):
        with pytest.raises(EvaluationInputError, match="qid 1: saliency that is not finite"):
            metrics([prediction], [annotation])


def plain_scores(annotation: Annotation) -> list[list[float]]:
    rows = [[0.0] * 3 for _ in range(int(annotation.duration / 2))]
    for clip, row in zip(
        annotation.relevant_clip_ids or [], annotation.saliency_scores or [], strict=True
    ):
        rows[clip] = row
    return rows


def plain_average_precision(positive: list[bool], saliency: list[float]) -> float:
    """Lower the threshold step by step; keep precision where recall has risen."""
    if not any(positive):
        return 0.0
    steps: list[tuple[int, float]] = []
    for threshold in sorted(set(saliency), reverse=True):
        chosen = [index for index, value in enumerate(saliency) if value >= threshold]
        found = sum(positive[index] for index in chosen)
        steps.append((found, found / len(chosen)))
    values = []
    for index, (found, _) in enumerate(steps):
        if found > (steps[index - 1][0] if index else 0):
            values.append(max(precision for _, precision in steps[index:]))
    return sum(values) / len(values)
