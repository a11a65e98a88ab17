"""Windows and their merging, against known moments and a slow implementation of the rules."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from r2rt.errors import QueryError
from r2rt.grounding import windows as windows_module
from r2rt.grounding.moments import interval_iou, postprocess
from r2rt.grounding.windows import (
    Window,
    WindowSize,
    mean_saliency,
    merge_moments,
    plan_windows,
    window_size,
)
from r2rt.model.manifest import Nms

CLIP_S = 2.0
NORMAL = Nms(kind="normal", iou_threshold=0.7)
SOFT = [Nms(kind="linear"), Nms(kind="gaussian", sigma=0.3)]
HALF = WindowSize(clips=75, overlap=37)
Rows = NDArray[np.float64]

sizes = st.integers(2, 40).flatmap(
    lambda clips: st.builds(WindowSize, clips=st.just(clips), overlap=st.integers(0, clips - 1))
)


def spans_of(windows: Sequence[Window]) -> Rows:
    return np.array([(x.start_clip, x.end_clip) for x in windows]) * CLIP_S


def merge(found: Sequence[Rows], windows: Sequence[Window], nms: Nms | None = NORMAL) -> Rows:
    return merge_moments(found, spans_of(windows), clip_s=CLIP_S, unit_s=None, nms=nms)


def rows(*items: tuple[float, float, float]) -> Rows:
    return np.array(items, float).reshape(-1, 3)


# Planning


@given(st.integers(1, 500), sizes)
def test_windows_cover_every_clip_and_overlap_by_as_much_as_was_asked(
    num_clips: int, size: WindowSize
) -> None:
    windows = plan_windows(num_clips, size)
    assert windows[0].start_clip == 0
    assert windows[-1].end_clip == num_clips
    assert {window.num_clips for window in windows} == {min(size.clips, num_clips)}
    overlaps = [a.end_clip - b.start_clip for a, b in pairwise(windows)]
    assert all(overlap == size.overlap for overlap in overlaps[:-1])
    assert all(size.overlap <= overlap < size.clips for overlap in overlaps)


@given(st.integers(1, 200), st.integers(1, 200), sizes)
def test_windows_but_the_last_stay_where_they_are_as_the_video_grows(
    num_clips: int, more: int, size: WindowSize
) -> None:
    before, after = (plan_windows(n, size) for n in (num_clips, num_clips + more))
    assert before[:-1] == after[: len(before) - 1]


def test_how_many_windows_a_video_has() -> None:
    assert plan_windows(75, HALF) == (Window(0, 75),)
    assert plan_windows(76, HALF) == (Window(0, 75), Window(1, 76))
    assert plan_windows(5400, None) == (Window(0, 5400),)
    assert len(plan_windows(5400, HALF)) == 142


def test_the_size_of_windows_in_clips() -> None:
    def size(window: Any, overlap: Any = None, model: float | None = 150.0) -> WindowSize | None:
        return window_size(window, overlap, model_window_s=model, fps=Fraction(1, 2))

    assert size("auto") == size(150) == HALF
    assert size("auto", 100) == WindowSize(clips=75, overlap=50)
    assert size(31.2, 0) == WindowSize(clips=16, overlap=0)
    assert size(np.float32(30), np.float32(10)) == WindowSize(clips=15, overlap=5)
    assert size(None) is None
    assert size("auto", model=None) is None
    assert size("auto", 10, model=None) is None
    assert size(30, model=None) == WindowSize(clips=15, overlap=7)
    assert size(2) == WindowSize(clips=1, overlap=0)


@pytest.mark.parametrize(
    ("window", "overlap", "message"),
    [
        (0, None, "^window of 0 s: give at least a clip, 2 s$"),
        (-5, None, "at least a clip"),
        (0.9, None, "at least a clip"),
        (float("nan"), None, "window nan: give a number of seconds"),
        (float("inf"), None, "window inf: give a number of seconds"),
        ("soon", None, "window 'soon': give a number of seconds"),
        ([], None, r"window \[\]: give a number of seconds"),
        ("auto", 150, r"^overlap of 150 s: .* a clip \(2 s\) less than the window of 150 s$"),
        (10, 9.5, "less than the window of 10 s"),
        (10, -2, "0 or more"),
        (10, float("nan"), "overlap nan"),
        (None, 5, "of no use without windows"),
    ],
)
def test_windows_that_make_no_sense(window: Any, overlap: Any, message: str) -> None:
    with pytest.raises(QueryError, match=message) as caught:
        window_size(window, overlap, model_window_s=150.0, fps=Fraction(1, 2))
    assert "\n" not in str(caught.value)


# Saliency


@given(st.integers(1, 120), sizes, st.integers(0, 99))
def test_saliency_is_the_mean_of_the_windows_that_look(
    num_clips: int, size: WindowSize, seed: int
) -> None:
    windows = plan_windows(num_clips, size)
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=w.num_clips).astype(np.float32) for w in windows]
    want = [
        np.mean(
            [
                float(part[clip - w.start_clip])
                for w, part in zip(windows, parts, strict=True)
                if w.start_clip <= clip < w.end_clip
            ]
        )
        for clip in range(num_clips)
    ]
    got = mean_saliency(windows, parts)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-6)


# Moments


@st.composite
def truths(draw: st.DrawFn, *, shortest: int = 1) -> tuple[int, Rows]:
    """A video's clips, and moments of it in seconds that leave at least a clip between them."""
    edges = draw(st.lists(st.integers(0, 1200), min_size=2, max_size=24, unique=True))
    points = np.sort(np.array(edges[: len(edges) // 2 * 2]))
    spans = points.reshape(-1, 2) * (CLIP_S / 4)
    spans = spans[spans[:, 1] - spans[:, 0] >= shortest * CLIP_S]
    apart = np.diff(spans.ravel())[1::2] >= CLIP_S
    spans = spans[np.concatenate([[True], apart])] if len(spans) else spans
    assume(len(spans) > 0)
    return draw(st.integers(301, 330)), spans


def seen(
    spans: Rows,
    window: Window,
    rng: np.random.Generator,
    *,
    jitter_s: float = 0.0,
    least_s: float = 0.0,
) -> Rows:
    """What a detector says that sees all that is in a window and nothing of what is not."""
    start_s, end_s = window.start_clip * CLIP_S, window.end_clip * CLIP_S
    found = spans.clip(start_s, end_s)
    found = found[found[:, 1] - found[:, 0] > least_s]
    wrong = rng.uniform(-jitter_s, jitter_s, found.shape)
    # It does not show that the event goes on outside.
    wrong[(found == start_s) | (found == end_s)] = 0
    scores = rng.uniform(0.5, 1.0, len(found))
    order = np.argsort(-scores)
    return np.column_stack([found + wrong, scores])[order]


long_windows = st.integers(20, 80).flatmap(
    lambda clips: st.builds(WindowSize, clips=st.just(clips), overlap=st.integers(6, clips - 4))
)


@given(truths(), long_windows, st.integers(0, 9999))
def test_what_is_seen_exactly_is_found_once_and_whole_wherever_borders_are(
    video: tuple[int, Rows], size: WindowSize, seed: int
) -> None:
    num_clips, spans = video
    windows = plan_windows(num_clips, size)
    rng = np.random.default_rng(seed)
    got = merge([seen(spans, window, rng) for window in windows], windows)
    np.testing.assert_allclose(got[np.argsort(got[:, 0]), :2], spans, atol=1e-9)
    assert (np.diff(got[:, 2]) <= 0).all()


@given(truths(shortest=5), st.integers(0, 9999))
def test_what_is_seen_inexactly_is_found_once_too(video: tuple[int, Rows], seed: int) -> None:
    num_clips, spans = video
    windows = plan_windows(num_clips, WindowSize(clips=60, overlap=30))
    rng = np.random.default_rng(seed)
    found = [seen(spans, w, rng, jitter_s=0.3 * CLIP_S, least_s=3 * CLIP_S) for w in windows]
    got = merge(found, windows)
    assert len(got) == len(spans)
    iou = interval_iou(got[np.argsort(got[:, 0]), :2], spans)
    assert (np.diag(iou) > 0.7).all()


WINDOWS = plan_windows(150, WindowSize(clips=75, overlap=38))  # 0-150 s, 74-224 s, 148-298, 150-300
EMPTY = rows()


def test_a_moment_cut_by_a_border_gives_way_to_the_neighbours_whole_one() -> None:
    found = [rows((140, 149.5, 0.9)), rows((139, 166, 0.7)), EMPTY, EMPTY]
    np.testing.assert_array_equal(merge(found, WINDOWS), [[139, 166, 0.7]])
    # And as well where it is the start that is cut.
    found = [rows((50, 90, 0.7)), rows((75, 91, 0.9)), EMPTY, EMPTY]
    np.testing.assert_array_equal(merge(found, WINDOWS), [[50, 90, 0.7]])


def test_a_neighbour_that_hardly_believes_in_it_does_not_take_it_away() -> None:
    found = [rows((140, 149.5, 0.9)), rows((139, 166, 0.4)), EMPTY, EMPTY]
    assert len(merge(found, WINDOWS)) == 2
    np.testing.assert_array_equal(
        merge([rows((140, 149.5, 0.9)), EMPTY, EMPTY, EMPTY], WINDOWS), [[140, 149.5, 0.45]]
    )


def test_halves_of_what_no_window_sees_whole_are_joined() -> None:
    found = [rows((60, 150, 0.6)), rows((74, 180, 0.8)), EMPTY, EMPTY]
    np.testing.assert_array_equal(merge(found, WINDOWS), [[60, 180, 0.8]])
    # Over several windows: 10 s to 290 s.
    found = [
        rows((10, 150, 0.6)),
        rows((74, 224, 0.8)),
        rows((148, 290, 0.5)),
        rows((150, 290, 0.5)),
    ]
    np.testing.assert_array_equal(merge(found, WINDOWS), [[10, 290, 0.8]])


def test_a_joined_moment_keeps_its_start_in_every_later_window() -> None:
    # Three windows overlap: 0-150 s, 50-200 s, 100-250 s. The moment from 10 s is joined with its
    # half in the third window; the second window, which saw it from 110 s on, must not shorten it.
    windows = plan_windows(125, WindowSize(clips=75, overlap=50))
    assert len(windows) == 3
    found = [rows((10, 150, 0.6)), rows((110, 200, 0.7)), rows((100, 240, 0.8))]
    np.testing.assert_array_equal(merge(found, windows), [[10, 240, 0.8]])


def test_a_border_cuts_what_comes_within_a_clip_of_it_and_nothing_farther_away() -> None:
    # 2 s are a clip. The IoU of the two moments is below a half: both stay unless one is cut.
    whole = rows((139, 166, 0.5))
    for end, left in ((148.1, 1), (147.9, 2)):
        assert len(merge([rows((140, end, 0.9)), whole, EMPTY, EMPTY], WINDOWS)) == left
    whole = rows((58, 85, 0.5))
    for start, left in ((75.9, 1), (76.1, 2)):
        assert len(merge([whole, rows((start, 84, 0.9)), EMPTY, EMPTY], WINDOWS)) == left


def test_a_window_that_ends_with_a_moment_sees_it_whole() -> None:
    # The first window ends at 150 s and found nothing there, so the mean is half of 0.8.
    found = [EMPTY, rows((120, 150, 0.8)), EMPTY, EMPTY]
    np.testing.assert_allclose(merge(found, WINDOWS), [[120, 150, 0.4]])
    # A moment that ends a little later is seen whole by the second window alone.
    found = [EMPTY, rows((120, 150.5, 0.8)), EMPTY, EMPTY]
    np.testing.assert_allclose(merge(found, WINDOWS), [[120, 150.5, 0.8]])
    # The same for one that starts with a window.
    found = [rows((74, 100, 0.8)), EMPTY, EMPTY, EMPTY]
    np.testing.assert_allclose(merge(found, WINDOWS), [[74, 100, 0.4]])
    found = [rows((73.5, 100, 0.8)), EMPTY, EMPTY, EMPTY]
    np.testing.assert_allclose(merge(found, WINDOWS), [[73.5, 100, 0.8]])


def window_rows(raw: Rows, window: int, order: Sequence[int]) -> windows_module._Rows:
    start_s, end_s = spans_of(WINDOWS)[window].tolist()
    inside = raw.copy()
    inside[:, :2] = inside[:, :2].clip(start_s, end_s)
    inside = inside[inside[:, 1] > inside[:, 0]]
    inside = inside[[index for index in order if index < len(inside)]]
    return windows_module._Rows(
        (start_s, end_s),
        inside,
        inside[:, 0] <= start_s + CLIP_S,
        inside[:, 1] >= end_s - CLIP_S,
        np.ones(len(inside), bool),
    )


def facts(window: windows_module._Rows) -> set[tuple[float, ...]]:
    columns = (*window.rows.T, window.cut_start, window.cut_end, window.alive)
    return set(zip(*(column.tolist() for column in columns), strict=True))


near_the_border = st.lists(
    st.tuples(
        st.sampled_from([60, 74, 75, 90, 120]),
        st.sampled_from([100, 140, 149, 150, 170]),
        st.floats(0.125, 1, width=32),
    ),
    max_size=8,
    unique_by=(lambda row: row[2],),
).map(lambda items: rows(*items))


@given(near_the_border, near_the_border, st.permutations(range(8)), st.permutations(range(8)))
def test_settling_two_windows_changes_neither_and_does_not_depend_on_the_order_of_rows(
    first: Rows, second: Rows, order: Sequence[int], other: Sequence[int]
) -> None:
    natural = range(8)
    earlier, later = window_rows(first, 0, natural), window_rows(second, 1, natural)
    before = facts(earlier), facts(later)
    got = windows_module._settle(earlier, later)
    assert (facts(earlier), facts(later)) == before
    shuffled = windows_module._settle(window_rows(first, 0, order), window_rows(second, 1, other))
    assert [facts(x) for x in got] == [facts(x) for x in shuffled]


def test_a_window_suppresses_its_own_moments_before_any_gives_way() -> None:
    # The second moment overlaps the first by 0.83, which then gives way to the next window's.
    found = [rows((120, 149.5, 0.9), (118, 146, 0.8)), rows((120, 180, 0.85)), EMPTY, EMPTY]
    np.testing.assert_array_equal(merge(found, WINDOWS), [[120, 180, 0.85]])


def test_the_videos_own_ends_cut_nothing() -> None:
    found = [rows((0, 30, 0.6)), EMPTY, EMPTY, rows((270, 300, 0.5))]
    np.testing.assert_array_equal(merge(found, WINDOWS), [[0, 30, 0.6], [270, 300, 0.5]])


def test_near_moments_stay_two() -> None:
    first, second = (100.0, 112.0, 0.9), (113.0, 125.0, 0.8)
    found = [rows(first, second), rows(second, first), EMPTY, EMPTY]
    np.testing.assert_array_equal(merge(found, WINDOWS), [first, second])
    # Of two moments, one inside the other, both stay if a single window found both.
    outer, inner = (10.0, 60.0, 0.9), (20.0, 50.0, 0.8)
    np.testing.assert_array_equal(
        merge([rows(outer, inner), EMPTY, EMPTY, EMPTY], WINDOWS), [outer, inner]
    )


def test_of_two_windows_the_better_score_is_reported_then_the_one_farther_from_borders() -> None:
    found = [rows((100, 120, 0.8)), rows((101, 121, 0.9)), EMPTY, EMPTY]
    np.testing.assert_allclose(merge(found, WINDOWS), [[101, 121, 0.85]])
    found = [rows((125, 145, 0.8)), rows((124, 144, 0.8)), EMPTY, EMPTY]
    np.testing.assert_array_equal(merge(found, WINDOWS), [[124, 144, 0.8]])


def test_the_distance_to_a_border_counts_from_the_windows_own_start() -> None:
    # Of equal scores: 36 s from the end of the first window, 21 s from the start of the second.
    found = [rows((94, 114, 0.8)), rows((95, 115, 0.8)), EMPTY, EMPTY]
    np.testing.assert_array_equal(merge(found, WINDOWS), [[94, 114, 0.8]])


def test_an_iou_of_exactly_a_half_is_the_same_moment() -> None:
    # One is kept, and its score is the mean of both.
    found = [rows((100, 120, 0.8)), rows((100, 110, 0.4)), EMPTY, EMPTY]
    np.testing.assert_allclose(merge(found, WINDOWS), [[100, 120, 0.6]])
    # A little less are two, and each window has but one of them.
    found = [rows((100, 120, 0.8)), rows((100, 109.9, 0.4)), EMPTY, EMPTY]
    np.testing.assert_allclose(merge(found, WINDOWS), [[100, 120, 0.4], [100, 109.9, 0.2]])
    # Halves with an IoU of 38 s / 76 s in the common part, 74 to 150 s, are joined. What is joined
    # lies within the first window, so that its score is the one that this window gave.
    found = [rows((60, 150, 0.6)), rows((74, 112, 0.8)), EMPTY, EMPTY]
    np.testing.assert_array_equal(merge(found, WINDOWS), [[60, 112, 0.6]])


def test_half_of_a_moments_score_is_enough_to_take_it_over() -> None:
    found = [rows((140, 149.5, 0.75)), rows((139, 166, 0.375)), EMPTY, EMPTY]
    np.testing.assert_array_equal(merge(found, WINDOWS), [[139, 166, 0.375]])
    found = [rows((140, 149.5, 0.75)), rows((139, 166, 0.37)), EMPTY, EMPTY]
    assert len(merge(found, WINDOWS)) == 2
    found = [rows((50, 90, 0.375)), rows((75, 91, 0.75)), EMPTY, EMPTY]
    np.testing.assert_array_equal(merge(found, WINDOWS), [[50, 90, 0.375]])


def test_a_moment_gives_way_to_windows_that_see_beyond_the_border_alone() -> None:
    # 0-150 s, 50-200 s, 100-250 s. The second window's moment is cut by its end, beyond which the
    # first window does not see; so the better of the two is kept.
    windows = plan_windows(125, WindowSize(clips=75, overlap=50))
    found = [rows((53, 147, 0.6)), rows((53, 199, 0.9)), EMPTY]
    np.testing.assert_array_equal(merge(found, windows), [[53, 199, 0.9]])


def test_moments_inside_longer_ones_are_compared_and_scored_by_their_own_times() -> None:
    # The shorter one starts later and ends earlier: the order of starts is not that of ends.
    found = [rows((40, 145, 0.9), (80, 140, 0.8)), rows((80, 140, 0.4)), EMPTY, EMPTY]
    np.testing.assert_allclose(merge(found, WINDOWS), [[40, 145, 0.9], [80, 140, 0.6]])
    found = [rows((2, 146, 0.9), (80, 100, 0.8)), rows((81, 101, 0.7)), EMPTY, EMPTY]
    np.testing.assert_allclose(merge(found, WINDOWS), [[2, 146, 0.9], [80, 100, 0.75]])


def test_moments_of_equal_scores_come_in_a_defined_order() -> None:
    # As many as no sort keeps in order by chance: numpy's default one is stable up to 16 rows.
    # All come within 10 s of a border; the scores are those of the one window that has any.
    number = np.arange(100)
    late = number % 2 == 1
    start = np.where(late, 60 + number / 128, 10)
    end = np.where(late, 140, 30 + np.random.default_rng(0).permutation(100))
    found = np.column_stack([start, end, 0.25 + number % 3 / 4])
    parts = [found, EMPTY, EMPTY, EMPTY]
    want = sorted(found.tolist(), key=lambda row: -row[2])
    np.testing.assert_array_equal(merge(parts, WINDOWS, None), want)
    # The one that starts first, and else the one that came first. This suppresses nothing.
    want = sorted(found.tolist(), key=lambda row: (-row[2], row[0]))
    got = merge(parts, WINDOWS, Nms(kind="normal", iou_threshold=2))
    np.testing.assert_array_equal(got, want)


def test_a_score_is_the_mean_of_the_windows_that_see_the_moment_whole() -> None:
    # Two windows see 100 to 120 s; of the second one the moment that is most like it counts.
    found = [rows((100, 120, 0.8)), rows((107, 127, 0.7), (101, 119, 0.2)), EMPTY, EMPTY]
    np.testing.assert_allclose(merge(found, WINDOWS)[0], [100, 120, 0.5])
    # What one of two windows does not see is half as sure as what both do.
    found = [rows((100, 120, 0.8), (125, 145, 0.6)), rows((125, 145, 0.6)), EMPTY, EMPTY]
    np.testing.assert_allclose(merge(found, WINDOWS), [[125, 145, 0.6], [100, 120, 0.4]])
    # One window alone looks at the start of the video.
    np.testing.assert_array_equal(
        merge([rows((5, 20, 0.8)), EMPTY, EMPTY, EMPTY], WINDOWS), [[5, 20, 0.8]]
    )


spans = st.tuples(
    st.floats(-20, 320, width=32), st.floats(-5, 90, width=32), st.floats(0, 1, width=32)
)
raw_rows = st.lists(spans, max_size=12).map(
    lambda items: rows(*sorted(((a, a + d, s) for a, d, s in items), key=lambda row: -row[2]))
)


@given(raw_rows, st.sampled_from([None, 0.1, 2.0]), st.sampled_from([None, NORMAL, *SOFT]))
def test_of_one_window_it_is_what_a_short_video_gives(
    raw: Rows, unit_s: float | None, nms: Nms | None
) -> None:
    got = merge_moments([raw], np.array([[0, 299.0]]), clip_s=CLIP_S, unit_s=unit_s, nms=nms)
    np.testing.assert_array_equal(got, postprocess(raw, duration_s=299.0, unit_s=unit_s, nms=nms))


@given(st.tuples(raw_rows, raw_rows, raw_rows, raw_rows), st.sampled_from([None, NORMAL, *SOFT]))
def test_whatever_windows_say_the_answer_is_in_order_and_the_same_again(
    found: tuple[Rows, ...], nms: Nms | None
) -> None:
    before = [part.copy() for part in found]
    got = merge(found, WINDOWS, nms)
    assert (got[:, 0] >= 0).all()
    assert (got[:, 1] <= 300).all()
    assert (got[:, 0] < got[:, 1]).all()
    assert (np.diff(got[:, 2]) <= 0).all()
    np.testing.assert_array_equal(got, merge(found, WINDOWS, nms))
    for part, was in zip(found, before, strict=True):
        np.testing.assert_array_equal(part, was)


@given(st.tuples(raw_rows, raw_rows, raw_rows, raw_rows))
def test_no_two_windows_report_nearly_the_same(found: tuple[Rows, ...]) -> None:
    # Suppressed within each window as tightly as between them, nothing overlaps by a half.
    got = merge(found, WINDOWS, Nms(kind="normal", iou_threshold=0.5))
    iou = interval_iou(got[:, :2], got[:, :2])
    np.fill_diagonal(iou, 0)
    assert (iou < 0.5).all()
