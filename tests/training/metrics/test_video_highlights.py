"""TVSum and YouTube Highlights: properties, and a plain oracle."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given

from tests.training.metrics.cases import label_cases
from training.metrics import (
    Annotation,
    DomainFigures,
    EvaluationInputError,
    Prediction,
    tvsum_metrics,
    youtube_metrics,
)

Case = tuple[list[Prediction], list[Annotation]]


@given(label_cases(annotators=3))
def test_tvsum_equals_a_plain_one(case: Case) -> None:
    by_domain: dict[str, list[float]] = {}
    for prediction, annotation in zip(*case, strict=True):
        values = []
        for annotator in range(3):
            column = [row[annotator] for row in annotation.label or []]
            middle = statistics.median_low(column)
            ranked = _ranked(prediction, [value > middle for value in column])
            values.append(plain_area(ranked[:5]))
        by_domain.setdefault(annotation.domain or "", []).append(statistics.mean(values))
    _assert_figures(by_domain, tvsum_metrics(*case))


@given(label_cases(annotators=1))
def test_youtube_equals_a_plain_one(case: Case) -> None:
    by_domain: dict[str, list[float]] = {}
    for prediction, annotation in zip(*case, strict=True):
        positive = [row[0] > 0 for row in annotation.label or []]
        value = plain_area(_ranked(prediction, positive))
        by_domain.setdefault(annotation.domain or "", []).append(value)
    _assert_figures(by_domain, youtube_metrics(*case))


@given(label_cases(annotators=1))
def test_perfect_saliency_gives_1(case: Case) -> None:
    annotations = [
        Annotation(qid=each.qid, label=[*(each.label or []), [4.0]], domain=each.domain)
        for each in case[1]
    ]
    predictions = [
        Prediction(qid=each.qid, pred_saliency_scores=[row[0] for row in each.label or []])
        for each in annotations
    ]
    assert youtube_metrics(predictions, annotations).overall == pytest.approx(1)


def test_a_last_clip_without_saliency_is_left_out_and_no_more() -> None:
    annotation = Annotation(qid=1, label=[[1.0], [0.0], [1.0]], domain="dog")
    short = Prediction(qid=1, pred_saliency_scores=[1.0, 0.0])
    assert youtube_metrics([short], [annotation]).domains == {"dog": 1.0}
    shorter = Prediction(qid=1, pred_saliency_scores=[1.0])
    with pytest.raises(EvaluationInputError, match="3 clips are labelled, 1 have saliency"):
        youtube_metrics([shorter], [annotation])


def plain_area(ranked: list[bool]) -> float:
    """Walk down the ranking and add a trapeze wherever recall grows."""
    area, found, before = 0.0, 0, 1.0
    for place, hit in enumerate(ranked, start=1):
        found += hit
        if hit:
            area += (before + found / place) / 2 / sum(ranked)
        before = found / place
    return area


def _ranked(prediction: Prediction, positive: list[bool]) -> list[bool]:
    saliency = prediction.pred_saliency_scores or []
    order = sorted(range(len(saliency)), key=lambda clip: -saliency[clip])
    return [positive[clip] for clip in order]


def _assert_figures(by_domain: dict[str, list[float]], figures: DomainFigures) -> None:
    everything = [value for values in by_domain.values() for value in values]
    assert figures.overall == pytest.approx(statistics.mean(everything))
    assert figures.domains == {
        name: pytest.approx(statistics.mean(values)) for name, values in by_domain.items()
    }
