"""Which frame stands for which clip: arithmetic against two oracles."""

from __future__ import annotations

import math
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from r2rt.video import ClipClock, ClipSelector
from r2rt.video.clock import select_offline
from tests.r2rt.video.clips import fps_graph, pulled

FPS = st.sampled_from(
    [Fraction(1, 2), Fraction(1), Fraction(2), Fraction(3), Fraction(30000, 1001)]
)
TIME_BASES = st.sampled_from(
    [
        Fraction(1, 25),
        Fraction(1, 1000),
        Fraction(1, 90_000),
        Fraction(1001, 24_000),
        Fraction(1, 2),
    ]
)
GAPS = st.lists(st.integers(1, 200_000), min_size=1, max_size=40)


def selected(clock: ClipClock, pts: list[int], duration: int) -> list[int]:
    """The frame that the streaming selector gives to each clip."""
    selector: ClipSelector[int] = ClipSelector(clock)
    found = [selector.push(number, time, duration) for number, time in enumerate(pts)]
    clips: list[int] = []
    for selection in [*found, selector.finish()]:
        if selection is not None:
            assert selection.clip_index == len(clips)
            clips += [selection.frame] * selection.count
    assert selector.clips == len(clips)
    return clips


def slowly(clock: ClipClock, pts: list[int], end: int) -> list[int]:
    """For each clip the last frame before (n + 1/2) / fps, word for word."""
    seconds = [(time - clock.origin_pts) * clock.time_base for time in pts]
    end_s = (end - clock.origin_pts) * clock.time_base
    num_clips = 0
    while (num_clips + Fraction(1, 2)) / clock.fps <= end_s:
        num_clips += 1
    clips = []
    for clip in range(max(1, num_clips)):
        limit = (clip + Fraction(1, 2)) / clock.fps
        clips.append(max((n for n, time in enumerate(seconds) if time < limit), default=0))
    return clips


def spread(gaps: list[int], clock: ClipClock, first: int) -> list[int]:
    """Times whose gaps are at most 2.5 clips, so that the slow oracle stays small."""
    longest = max(1, int(Fraction(5, 2) / clock.fps / clock.time_base))
    steps = np.cumsum([1 + gap % longest for gap in gaps])
    return [clock.origin_pts + first + int(step) for step in steps]


@settings(deadline=None)
@given(
    fps=FPS, time_base=TIME_BASES, gaps=GAPS, first=st.integers(-50, 500), origin=st.integers(-9, 9)
)
@example(fps=Fraction(1, 2), time_base=Fraction(1, 2), gaps=[1] * 12, first=0, origin=0)
def test_each_clip_shows_the_last_frame_before_its_middle(
    fps: Fraction, time_base: Fraction, gaps: list[int], first: int, origin: int
) -> None:
    clock = ClipClock(fps=fps, time_base=time_base, origin_pts=origin)
    pts = spread(gaps, clock, first)
    expected = slowly(clock, pts, pts[-1] + 1)
    assert selected(clock, pts, 1) == expected
    ticks = clock.ticks(np.array(pts, np.int64))
    assert select_offline(ticks, clock.num_clips(pts[-1] + 1)).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(fps=FPS, time_base=TIME_BASES, gaps=GAPS, first=st.integers(-50, 500))
@example(fps=Fraction(1, 2), time_base=Fraction(1, 2), gaps=[1] * 12, first=0)
def test_ffmpeg_agrees(fps: Fraction, time_base: Fraction, gaps: list[int], first: int) -> None:
    clock = ClipClock(fps=fps, time_base=time_base)
    pts = spread(gaps, clock, first)
    graph = fps_graph(fps, time_base, 2, 2, av.VideoFormat("gray"))
    theirs: list[int] = []
    for number, time in enumerate(pts):
        frame = av.VideoFrame.from_ndarray(np.full((2, 2), number, np.uint8), format="gray")
        frame.pts, frame.time_base, frame.duration = time, time_base, 1
        graph.vpush(frame)
        theirs += [int(out.to_ndarray()[0, 0]) for out in pulled(graph)]
    graph.vpush(None)
    theirs += [int(out.to_ndarray()[0, 0]) for out in pulled(graph)]
    ours = selected(clock, pts, 1)
    # ffmpeg shows nothing of a video shorter than half a clip; one clip is the least here.
    assert ours == (theirs or [ours[0]])


@given(
    pts=st.lists(st.integers(-(2**50), 2**50), min_size=1, max_size=9),
    fps=FPS,
    time_base=TIME_BASES,
)
def test_ticks_of_an_array_are_those_of_its_entries(
    pts: list[int], fps: Fraction, time_base: Fraction
) -> None:
    clock = ClipClock(fps=fps, time_base=time_base)
    assert clock.ticks(np.array(pts, np.int64)).tolist() == [clock.tick(value) for value in pts]


@pytest.mark.parametrize(("pts", "tick"), [(0, 0), (24, 0), (25, 1), (75, 2), (-25, -1), (-24, 0)])
def test_halves_round_away_from_zero(pts: int, tick: int) -> None:
    assert ClipClock(fps=Fraction(1, 2), time_base=Fraction(1, 25)).tick(pts) == tick


def test_a_frame_is_handed_out_when_the_next_one_shows_it() -> None:
    selector: ClipSelector[str] = ClipSelector(
        ClipClock(fps=Fraction(1), time_base=Fraction(1, 10))
    )
    assert selector.push("a", 0) is None
    assert selector.push("b", 4) is None  # replaces a: clip 0 shows the last frame before 0.5 s
    selection = selector.push("c", 25)
    assert selection is not None
    assert (selection.frame, selection.clip_index, selection.count) == ("b", 0, 3)
    last = selector.finish(end_pts=47)
    assert last is not None
    assert (last.frame, last.clip_index, last.count) == ("c", 3, 2)
    assert selector.finish() is None


def test_time_running_backwards_replaces_the_frame_held() -> None:
    selector: ClipSelector[str] = ClipSelector(
        ClipClock(fps=Fraction(1), time_base=Fraction(1, 10))
    )
    selector.push("a", 30)
    assert selector.push("b", 10) is not None
    selection = selector.finish(end_pts=40)
    assert selection is not None
    assert selection.frame == "b"


@pytest.mark.parametrize(
    ("time_s", "pts"),
    [("0", 7), ("0.0199", 7), ("0.02", 8), ("0.0599", 8), ("0.06", 9), ("-0.0201", 6)],
)
def test_times_become_the_nearest_timestamp(time_s: str, pts: int) -> None:
    clock = ClipClock(fps=Fraction(1), time_base=Fraction(1, 25), origin_pts=7)
    assert clock.pts_of(Fraction(time_s)) == pts


@pytest.mark.parametrize(("fps", "time_base"), [(0, 1), (-1, 1), (1, 0), (1, -1)])
def test_clocks_need_positive_rates(fps: int, time_base: int) -> None:
    with pytest.raises(ValueError, match=f"fps {fps} and time base {time_base} must be positive"):
        ClipClock(fps=Fraction(fps), time_base=Fraction(time_base))


# Products of 2**63 and more do not fit into int64.
@pytest.mark.parametrize(
    ("pts", "origin", "scale"),
    [
        ([2**62, 0], 0, Fraction(1)),
        ([0, -(2**62)], 0, Fraction(1)),
        ([2**62 - 5, 0], -5, Fraction(1)),
        ([5, 5 - 2**62], 5, Fraction(1)),
        ([2**61], 0, Fraction(3)),
        ([2**62 - 2**15], 0, Fraction(1, 2**20 + 1)),
        ([5], 5, Fraction(1, 2**62)),
        # These fit, but a float64 would round 2**54 - 1/6 up.
        ([3 * 2**54 - 2], 0, Fraction(1, 3)),
    ],
)
def test_ticks_of_an_array_do_not_overflow(pts: list[int], origin: int, scale: Fraction) -> None:
    clock = ClipClock(fps=Fraction(1), time_base=scale, origin_pts=origin)
    # Halves away from zero, word for word.
    exact = [(value - origin) * scale for value in pts]
    want = [
        math.floor(value + Fraction(1, 2)) if value >= 0 else math.ceil(value - Fraction(1, 2))
        for value in exact
    ]
    assert clock.ticks(np.array(pts, np.int64)).tolist() == want


def test_no_timestamps_have_no_ticks() -> None:
    ticks = ClipClock(fps=Fraction(1), time_base=Fraction(1)).ticks(np.zeros(0, np.int64))
    assert ticks.shape == (0,)
    assert ticks.dtype == np.int64


def test_seconds_count_from_the_beginning_of_clip_0() -> None:
    clock = ClipClock(fps=Fraction(1), time_base=Fraction(1, 25), origin_pts=7)
    assert [clock.time_s(pts) for pts in (7, 57, 2)] == [0.0, 2.0, -0.2]


def test_a_last_frame_of_unknown_duration_takes_no_time() -> None:
    selector: ClipSelector[str] = ClipSelector(ClipClock(fps=Fraction(1), time_base=Fraction(1, 2)))
    assert selector.push("a", 0) is None
    selection = selector.push("b", 4)
    assert selection is not None
    assert (selection.frame, selection.count) == ("a", 2)
    assert selector.finish() is None  # b begins clip 2, which is over at once


def test_a_source_without_frames_has_nothing_to_show() -> None:
    clock = ClipClock(fps=Fraction(1), time_base=Fraction(1, 2), origin_pts=7)
    selector: ClipSelector[str] = ClipSelector(clock)
    assert selector.finish() is None
    assert selector.push("a", 7) is None
    assert selector.finish(end_pts=9) is not None
    assert selector.finish(end_pts=99) is None  # the frame has been handed out


@pytest.mark.parametrize(
    ("ticks", "frames"), [([0, 0, 2, 5], [1, 1, 2, 2, 2, 3, 3]), ([2, 3], [0, 0, 0, 1]), ([1], [0])]
)
def test_a_clip_has_the_last_frame_whose_tick_is_not_later_or_the_first(
    ticks: list[int], frames: list[int]
) -> None:
    assert select_offline(np.array(ticks, np.int64), len(frames)).tolist() == frames
