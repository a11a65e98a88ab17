"""Boundaries, rounding and suppression, against slow and obvious versions of themselves."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from r2rt.grounding import moments
from r2rt.grounding.moments import (
    boundaries_from_points,
    interval_iou,
    place,
    postprocess,
    suppress,
)
from r2rt.model.contract import level_lengths
from r2rt.model.manifest import Nms

STRIDES = (1, 2, 4, 8)
NORMAL = Nms(kind="normal", iou_threshold=0.7)
KINDS = [NORMAL, Nms(kind="linear"), Nms(kind="gaussian", sigma=0.3)]

finite = st.floats(-50, 250, allow_nan=False, width=32)
rows = st.lists(
    st.tuples(finite, st.floats(0, 80, width=32), st.floats(0, 1, width=32)), max_size=20
).map(lambda items: np.array([(a, a + d, s) for a, d, s in items], float).reshape(-1, 3))


@pytest.mark.parametrize("num_clips", [1, 2, 5, 8, 13, 75])
def test_boundaries_follow_the_formula(num_clips: int) -> None:
    rng = np.random.default_rng(num_clips)
    lengths = level_lengths(num_clips, STRIDES)
    logits = rng.normal(size=sum(lengths)).astype(np.float32)
    offsets = rng.exponential(size=(sum(lengths), 2)).astype(np.float32)
    want = []
    point = 0
    for stride, length in zip(STRIDES, lengths, strict=True):
        for index in range(length):
            c0, c1 = map(float, offsets[point])
            start = (index * stride - c0 * stride) / 0.5
            end = (index * stride + c1 * stride) / 0.5
            want.append((start, end, 1 / (1 + math.exp(-float(logits[point])))))
            point += 1
    want.sort(key=lambda row: -row[2])
    got = boundaries_from_points(
        logits, offsets, num_clips=num_clips, strides=STRIDES, fps=Fraction(1, 2), max_moments=50
    )
    np.testing.assert_allclose(got, np.array(want[:50]), rtol=1e-12)


def test_levels_wider_than_the_video_have_no_points() -> None:
    assert level_lengths(5, STRIDES) == (5, 2, 1, 0)
    assert level_lengths(1, STRIDES) == (1, 0, 0, 0)


@given(rows, st.floats(0.5, 200), st.sampled_from([None, 0.1, 2.0]), st.sampled_from(KINDS))
def test_moments_are_ordered_inside_the_video_and_sorted(
    raw: NDArray[Any], duration_s: float, unit_s: float | None, nms: Nms
) -> None:
    got = postprocess(raw, duration_s=duration_s, unit_s=unit_s, nms=nms)
    assert (got[:, 0] >= 0).all()
    assert (got[:, 1] <= duration_s).all()
    assert (got[:, 0] < got[:, 1]).all()
    assert (np.diff(got[:, 2]) <= 0).all()
    assert len(got) <= len(raw)


@given(rows)
def test_normal_suppression_leaves_no_two_that_overlap(raw: NDArray[Any]) -> None:
    got = suppress(raw, NORMAL)
    iou = interval_iou(got[:, :2], got[:, :2])
    np.fill_diagonal(iou, 0)
    assert (iou < NORMAL.iou_threshold).all()


@given(rows, st.sampled_from(KINDS))
def test_suppression_equals_the_loop_of_the_textbook(raw: NDArray[Any], nms: Nms) -> None:
    want = []
    pending = sorted(raw.tolist(), key=lambda row: -row[2])
    while pending:
        best = max(range(len(pending)), key=lambda index: pending[index][2])
        top = pending.pop(best)
        want.append(top)
        rest = []
        for start, end, score in pending:
            inter = max(0.0, min(end, top[1]) - max(start, top[0]))
            union = (end - start) + (top[1] - top[0]) - inter
            iou = inter / union if union > 0 else 0.0
            if nms.kind == "normal":
                if iou < nms.iou_threshold:
                    rest.append([start, end, score])
            elif nms.kind == "linear":
                rest.append([start, end, score * (1 - iou)])
            else:
                rest.append([start, end, score * math.exp(-iou * iou / nms.sigma)])
        pending = rest
    got = suppress(raw, nms)
    np.testing.assert_allclose(got, np.array(want).reshape(-1, 3), rtol=1e-12, atol=0)


@pytest.mark.parametrize("nms", KINDS)
def test_suppression_of_many_rows_is_that_of_all_at_once(
    nms: Nms, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 300, 600)
    raw = np.column_stack([start, start + rng.uniform(1, 60, 600), rng.permutation(600) / 600])
    row_by_row = suppress(raw, nms)
    monkeypatch.setattr(moments, "_SMALL", len(raw))
    at_once = suppress(raw, nms)
    np.testing.assert_array_equal(row_by_row, at_once)
    assert row_by_row[:, 2].max() > 0


def test_rounding_spares_what_ends_with_the_video() -> None:
    raw = np.array([[3.2, 11.1, 0.9], [13.3, 30.0, 0.8]])
    got = postprocess(raw, duration_s=15.5, unit_s=2.0, nms=NORMAL)
    np.testing.assert_array_equal(got, [[4.0, 12.0, 0.9], [13.3, 15.5, 0.8]])


def test_moments_are_clamped_to_the_video() -> None:
    raw = np.array([[-2.0, 3.0, 0.9], [0.5, 4.0, 0.8], [6.0, 12.0, 0.7]])
    got = postprocess(raw, duration_s=10.0, unit_s=None, nms=None)
    np.testing.assert_array_equal(got, [[0, 3, 0.9], [0.5, 4, 0.8], [6, 10, 0.7]])


def test_what_rounds_to_nothing_is_dropped() -> None:
    got = postprocess(np.array([[4.2, 4.7, 0.9]]), duration_s=20, unit_s=2.0, nms=NORMAL)
    assert got.shape == (0, 3)


def test_without_suppression_every_moment_stays() -> None:
    raw = np.array([[0.0, 10.0, 0.9], [0.0, 10.0, 0.8]])
    assert len(postprocess(raw, duration_s=20, unit_s=None, nms=None)) == 2
    assert len(postprocess(raw, duration_s=20, unit_s=None, nms=NORMAL)) == 1


def test_of_equal_scores_the_first_points_are_kept_in_order() -> None:
    # As many as no sort keeps in order by chance: numpy's default one is stable up to 16 rows.
    logits = np.arange(100) % 3.0
    got = boundaries_from_points(
        logits, np.ones((100, 2)), num_clips=100, strides=(1,), fps=Fraction(1), max_moments=50
    )
    want = sorted(range(100), key=lambda n: -logits[n])[:50]  # a stable sort
    np.testing.assert_array_equal(got[:, :2], [(n - 1, n + 1) for n in want])


def test_equal_scores_stay_in_the_order_they_came_in() -> None:
    start = np.random.default_rng(0).permutation(100) * 10.0
    raw = np.column_stack([start, start + 5, 0.25 + np.arange(100) % 3 / 4])
    want = sorted(raw.tolist(), key=lambda row: -row[2])
    for nms in KINDS:
        np.testing.assert_array_equal(suppress(raw, nms), want)


def test_suppression_begins_at_exactly_the_threshold() -> None:
    raw = np.array([[0.0, 4.0, 0.9], [0.0, 2.0, 0.8]])  # an IoU of 2 / 4
    assert len(suppress(raw, Nms(kind="normal", iou_threshold=0.5))) == 1
    assert len(suppress(raw, Nms(kind="normal", iou_threshold=0.5000001))) == 2


def test_the_iou_of_intervals() -> None:
    a = np.array([[0.0, 4.0], [1.0, 1.5], [3.0, 3.0]])
    b = np.array([[2.0, 6.0], [1.0, 1.25], [4.0, 9.0], [3.0, 3.0]])
    want = [[2 / 6, 1 / 16, 0, 0], [0, 0.5, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(interval_iou(a, b), want)


def test_moments_are_clamped_to_a_window_before_and_after_rounding() -> None:
    raw = np.array([[3.0, 12.9, 0.9], [11.0, 14.9, 0.8], [12.0, 15.5, 0.7], [1.0, 4.9, 0.6]])
    # Units of 4 s within 5 to 15 s: 5 becomes 4 and 14.9 becomes 16, and both are clamped again.
    got = place(raw, 5.0, 15.0, 4.0)
    np.testing.assert_array_equal(got, [[5, 12, 0.9], [12, 15, 0.8], [12, 15, 0.7]])
    np.testing.assert_array_equal(raw[0], [3.0, 12.9, 0.9])
