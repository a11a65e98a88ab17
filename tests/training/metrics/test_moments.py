"""Moment retrieval: properties, and average precision against one written plainly."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.metrics.cases import moment_cases, spans
from training.metrics import (
    AP_IOUS,
    RECALL_IOUS,
    Annotation,
    EvaluationInputError,
    Prediction,
    moment_metrics,
    temporal_iou,
)
from training.metrics.spans import temporal_iou_by_lengths

Case = tuple[list[Prediction], list[Annotation]]
Span = tuple[float, float]


@given(moment_cases())
def test_average_precision_equals_a_plain_one(case: Case) -> None:
    predictions, annotations = case
    expected = np.zeros(len(AP_IOUS))
    for prediction, annotation in zip(predictions, annotations, strict=True):
        assert prediction.pred_relevant_windows is not None
        assert annotation.relevant_windows is not None
        for index, at in enumerate(AP_IOUS):
            expected[index] += plain_average_precision(
                prediction.pred_relevant_windows[:10], annotation.relevant_windows, at
            )
    figures = moment_metrics(predictions, annotations)["full"]
    np.testing.assert_allclose(
        figures.average_precision, 100 * expected / len(predictions), atol=1e-9
    )


@given(moment_cases())
def test_recall_and_mean_iou_equal_plain_ones(case: Case) -> None:
    predictions, annotations = case
    figures = moment_metrics(predictions, annotations)["full"]
    for k in (1, 5):
        best = []
        for prediction, annotation in zip(predictions, annotations, strict=True):
            windows = (prediction.pred_relevant_windows or [])[:k]
            truths = annotation.relevant_windows or []
            best.append(
                max((plain_iou(w[:2], truth) for w in windows for truth in truths), default=0.0)
            )
        for at, value in zip(RECALL_IOUS, figures.recall[k], strict=True):
            found = sum(iou >= at for iou in best)
            assert value == pytest.approx(100 * found / len(best))
        if k == 1:
            assert figures.mean_iou == pytest.approx(100 * sum(best) / len(best))


@pytest.mark.slow
@given(moment_cases())
def test_recall_falls_with_the_iou_and_rises_with_k(case: Case) -> None:
    for figures in moment_metrics(*case).values():
        assert (np.diff(figures.recall[1]) <= 0).all()
        assert (np.diff(figures.recall[5]) <= 0).all()
        assert (np.diff(figures.average_precision) <= 1e-9).all()
        assert (figures.recall[5] >= figures.recall[1]).all()
        assert 0 <= figures.mean_iou <= 100


@given(moment_cases(), st.randoms(use_true_random=False))
def test_the_order_of_lines_does_not_matter(case: Case, shuffle: random.Random) -> None:
    predictions, annotations = case
    before = moment_metrics(predictions, annotations)
    shuffle.shuffle(predictions)
    shuffle.shuffle(annotations)
    after = moment_metrics(predictions, annotations)
    for name, figures in before.items():
        assert figures.mean_iou == pytest.approx(after[name].mean_iou)
        np.testing.assert_allclose(figures.recall[5], after[name].recall[5])
        np.testing.assert_allclose(figures.average_precision, after[name].average_precision)


@given(moment_cases())
def test_perfect_predictions_give_100(case: Case) -> None:
    annotations = [
        Annotation(
            qid=each.qid, duration=40.0, relevant_windows=_apart(each.relevant_windows or [])
        )
        for each in case[1]
    ]
    predictions = [
        Prediction(
            qid=each.qid,
            pred_relevant_windows=[(*window, 1.0) for window in each.relevant_windows or []],
        )
        for each in annotations
    ]
    figures = moment_metrics(predictions, annotations)["full"]
    assert figures.mean_iou == 100
    assert (figures.recall[1] == 100).all()
    np.testing.assert_allclose(figures.average_precision, 100)


@given(st.lists(spans(), min_size=1), st.lists(spans(), min_size=1))
def test_iou_is_symmetric_and_equals_a_plain_one(first: list[Span], second: list[Span]) -> None:
    a, b = np.array(first)[:, None], np.array(second)[None]
    for iou in (temporal_iou, temporal_iou_by_lengths):
        assert (iou(a, b) == iou(b, a)).all()
        plain = [[plain_iou(one, other) for other in second] for one in first]
        np.testing.assert_allclose(iou(a, b), plain, atol=1e-12)
        assert (np.diagonal(iou(a, np.array(first)[None])) == 1).all()


def test_lengths_take_moments_above_the_first_number_up_to_the_second() -> None:
    truths = [(0.0, 10.0), (20.0, 40.0), (50.0, 200.0)]
    annotations = [Annotation(qid=1, duration=200, relevant_windows=truths)]
    for index, name in enumerate(("short", "middle", "long")):
        predictions = [Prediction(qid=1, pred_relevant_windows=[(*truths[index], 1.0)])]
        figures = moment_metrics(predictions, annotations)
        assert {each: figures[each].mean_iou for each in ("short", "middle", "long")} == {
            each: 100 if each == name else 0 for each in ("short", "middle", "long")
        }


def test_a_length_that_no_moment_has_repeats_the_figures_of_all() -> None:
    annotations = [Annotation(qid=1, duration=200, relevant_windows=[(0, 5)])]
    predictions = [Prediction(qid=1, pred_relevant_windows=[(0, 4, 0.5)])]
    figures = moment_metrics(predictions, annotations)
    assert figures["long"].mean_iou == figures["full"].mean_iou == pytest.approx(80)


def test_of_two_annotated_moments_that_fit_alike_the_last_is_taken() -> None:
    """It decides what is left for the next one: here (0, 8), of which (2, 10) covers 0.6."""
    annotations = [Annotation(qid=1, relevant_windows=[(0, 8), (2, 10)])]
    windows = [(0.0, 10.0, 0.9), (2.0, 10.0, 0.8)]
    figures = moment_metrics([Prediction(qid=1, pred_relevant_windows=windows)], annotations)
    at = dict(zip(AP_IOUS, figures["full"].average_precision, strict=True))
    assert at[0.6] == 100
    assert at[0.65] == at[0.8] == 50


def test_a_query_without_moments_counts_as_missed() -> None:
    annotations = [Annotation(qid=qid, relevant_windows=[(0, 5)]) for qid in (1, 2)]
    predictions = [
        Prediction(qid=1, pred_relevant_windows=[(0, 5, 1.0)]),
        Prediction(qid=2, pred_relevant_windows=[]),
    ]
    figures = moment_metrics(predictions, annotations)["full"]
    assert figures.mean_iou == 50
    assert figures.mean_average_precision == pytest.approx(50)


@pytest.mark.parametrize(
    ("predicted", "annotated", "message"),
    [
        ([1], [1, 2], "no prediction for qid 2"),
        ([1, 2, 3], [1], "no annotation for the predicted qid 2 and 1 more"),
        ([1, 1], [1], "twice"),
        ([1], [1, 1], "twice"),
        ([], [], "no queries"),
    ],
)
def test_qids_match_one_to_one(predicted: list[int], annotated: list[int], message: str) -> None:
    with pytest.raises(EvaluationInputError, match=message):
        moment_metrics(
            [Prediction(qid=qid, pred_relevant_windows=[]) for qid in predicted],
            [Annotation(qid=qid, relevant_windows=[(0, 1)]) for qid in annotated],
        )


def test_nan_is_refused() -> None:
    with pytest.raises(EvaluationInputError, match=r"moment \[0.0, nan, 1.0\]; expected no NaN"):
        moment_metrics(
            [Prediction(qid=1, pred_relevant_windows=[(0.0, float("nan"), 1.0)])],
            [Annotation(qid=1, relevant_windows=[(0, 1)])],
        )


def plain_iou(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    shared = min(first[1], second[1]) - max(first[0], second[0])
    if shared <= 0:
        return 0.0
    return shared / ((first[1] - first[0]) + (second[1] - second[0]) - shared)


# Figures of these cases lie between two decimals, as 39.625 does.
@pytest.mark.parametrize("seed", [134, 158, 182, 234, 243, 322, 382])
def test_figures_between_two_decimals_are_rounded_as_by_the_authors(seed: int) -> None:
    """Their average precision is a sum of rises of recall times precision, in this order."""
    draw = random.Random(seed)

    def span() -> Span:
        start = draw.randrange(20)
        return 2.0 * start, 2.0 * (start + draw.randrange(1, 8))

    predictions, annotations, rows = [], [], []
    for qid in range(8):
        truths = [span() for _ in range(draw.randrange(1, 5))]
        windows = [(*span(), float(10 - n)) for n in range(draw.randrange(1, 11))]
        predictions.append(Prediction(qid=qid, pred_relevant_windows=windows))
        annotations.append(Annotation(qid=qid, duration=60.0, relevant_windows=truths))
        row = []
        for at in AP_IOUS:
            hits = plain_hits(windows, truths, at)
            recall = [sum(hits[:n]) / len(truths) for n in range(len(hits) + 1)]
            precision = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
            rises = zip(recall[1:], recall, strict=False)
            gains = [(a - b) * max(precision[n:]) for n, (a, b) in enumerate(rises)]
            row.append(sum(np.array(gains)))
        rows.append(row)
    means = np.array(rows).mean(axis=0)
    figures = moment_metrics(predictions, annotations)["full"]
    found = [*figures.average_precision, figures.mean_average_precision]
    assert [f"{value:.2f}" for value in found] == [
        *(f"{100 * value:.2f}" for value in means),
        f"{100 * np.mean(means):.2f}",
    ]


def plain_average_precision(
    windows: list[tuple[float, float, float]], truths: list[Span], at: float
) -> float:
    """For each annotated moment that is found, take the best precision from there on."""
    hits = plain_hits(windows, truths, at)
    precisions = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
    found = [max(precisions[n:]) for n, hit in enumerate(hits) if hit]
    return sum(found) / len(truths)


def plain_hits(
    windows: list[tuple[float, float, float]], truths: list[Span], at: float
) -> list[bool]:
    """Go through moments by falling score; each takes the best free annotated one, if good."""
    taken: set[int] = set()
    hits: list[bool] = []
    for window in sorted(windows, key=lambda window: -window[2]):
        best, best_iou = -1, -1.0
        for index, truth in enumerate(truths):
            iou = plain_iou(window[:2], truth)
            if index not in taken and iou >= best_iou:
                best, best_iou = index, iou
        hits.append(best >= 0 and best_iou >= at)
        if hits[-1]:
            taken.add(best)
    return hits


def _apart(windows: list[Span]) -> list[Span]:
    """Keep windows that overlap none before them, so that each has one prediction that is its."""
    kept: list[Span] = []
    for window in windows:
        if all(plain_iou(window, other) == 0 for other in kept):
            kept.append(window)
    return kept
