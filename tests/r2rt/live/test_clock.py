"""A clock that goes on, whatever becomes of the stream's timestamps."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2rt.live.clock import LiveClock, Placed
from r2rt.live.pace import Pace

TB = Fraction(1, 90_000)
STEP = 3600  # 25 a second


def clock(**changes: bool) -> LiveClock:
    return LiveClock(bridge_s=4.0, trusted_s=150.0, **changes)


def run(subject: LiveClock, *, first: int, count: int, arrival_s: float) -> Placed:
    """Place pictures 40 ms apart, by their timestamps and by arrival."""
    assert count
    for index in range(count):
        placed = subject.place(first + index * STEP, STEP, TB, arrival_s + index / 25)
    return placed


def test_timestamps_that_go_on_are_taken_as_they_are() -> None:
    subject = clock()
    placed = run(subject, first=123_456, count=100, arrival_s=5.0)
    assert (placed.pts, placed.origin_pts, placed.segment_s) == (123_456 + 99 * STEP, 123_456, 0)
    assert placed.time_s == pytest.approx(3.96)
    assert subject.end_pts == 123_456 + 100 * STEP
    assert not placed.leapt


def test_the_first_frame_of_a_file_need_not_be_its_zero() -> None:
    placed = clock().place(9000, STEP, TB, 0.0, origin_pts=0)
    assert placed.time_s == pytest.approx(0.1)


@pytest.mark.parametrize("bits", [32, 33])
def test_a_counter_that_wraps_is_unwrapped(bits: int) -> None:
    subject = clock()
    last = run(subject, first=2**bits - 10 * STEP, count=10, arrival_s=0.0)
    placed = subject.place(0, STEP, TB, 0.4)
    assert placed.pts - last.pts == STEP
    assert not placed.leapt
    assert subject.place(STEP, STEP, TB, 0.44).pts - last.pts == 2 * STEP


def test_a_leap_back_goes_on_by_arrival() -> None:
    subject = clock()
    last = run(subject, first=10**9, count=50, arrival_s=0.0)
    placed = subject.place(500, STEP, TB, 49 / 25 + 1.0)
    assert placed.leapt
    assert not placed.is_new
    assert placed.time_s - last.time_s == pytest.approx(1.0)
    assert placed.gap_s == pytest.approx(0.96)
    following = subject.place(500 + STEP, STEP, TB, 49 / 25 + 1.04)
    assert following.pts - placed.pts == STEP


def test_a_leap_farther_than_a_window_begins_a_segment_by_arrival() -> None:
    subject = clock()
    last = run(subject, first=0, count=50, arrival_s=0.0)
    placed = subject.place(10**10, STEP, TB, 49 / 25 + 6.0)
    assert placed.is_new
    assert placed.origin_pts == placed.pts
    assert placed.time_s - last.time_s == pytest.approx(6.0)


def test_a_hole_in_a_recording_is_as_long_as_its_timestamps_say() -> None:
    subject = clock(live=False)
    last = run(subject, first=0, count=50, arrival_s=0.0)
    placed = subject.place(last.pts + 600 * 90_000, STEP, TB, 2.0)
    assert placed.is_new
    assert placed.time_s - last.time_s == pytest.approx(600)


def test_a_sparse_stream_is_believed() -> None:
    subject = clock()
    subject.place(0, 0, TB, 0.0)
    placed = subject.place(100 * 90_000, 0, TB, 0.1)
    assert not placed.is_new
    assert placed.time_s == 100


@pytest.mark.parametrize(("away_s", "is_new"), [(3.0, False), (30.0, True)])
def test_after_a_loss_the_clock_goes_on_by_arrival(away_s: float, is_new: bool) -> None:
    subject = clock()
    last = run(subject, first=10**6, count=50, arrival_s=0.0)
    subject.interrupt()
    placed = subject.place(777, STEP, TB, 49 / 25 + away_s)
    assert placed.leapt
    assert placed.is_new is is_new
    assert placed.time_s - last.time_s == pytest.approx(away_s)
    assert placed.gap_s == pytest.approx(away_s - 0.04)
    following = subject.place(777 + STEP, STEP, TB, 49 / 25 + away_s + 0.04)
    assert following.time_s - placed.time_s == pytest.approx(0.04)
    assert not following.leapt


def test_another_time_base_begins_a_segment() -> None:
    subject = clock()
    last = run(subject, first=0, count=50, arrival_s=0.0)
    placed = subject.place(5, 1, Fraction(1, 25), 2.0)
    assert placed.is_new
    assert placed.time_base == Fraction(1, 25)
    assert placed.time_s > last.time_s


def test_frames_without_timestamps_follow_each_other() -> None:
    subject = clock()
    for index in range(5):
        placed = subject.place(None, STEP, TB, index / 25)
    assert placed.time_s == pytest.approx(4 / 25)


def test_by_arrival_the_timestamps_mean_nothing() -> None:
    subject = clock(by_arrival=True)
    times = [subject.place(7, 1, TB, 100 + arrival).time_s for arrival in (0.0, 0.5, 3.0, 3.1)]
    assert times == pytest.approx([0.0, 0.5, 3.0, 3.1])


# Eighths of a second are exact in binary, so that times can be compared as they are.
EIGHTH = Fraction(1, 8)


def going_on(pts: int, **changes: object) -> Placed:
    """A frame of the segment that began at 1000, as its own timestamp says, of unknown duration."""
    usual: dict[str, object] = {
        "pts": pts,
        "duration": 0,
        "time_base": EIGHTH,
        "origin_pts": 1000,
        "segment_s": 0.0,
        "is_new": False,
        "gap_s": 0.0,
        "leapt": False,
    }
    return Placed(**usual | changes)  # type: ignore[arg-type]


def begun(*, live: bool = True) -> LiveClock:
    """A clock that has placed frames at 0 and 0.25 s; the last one arrived at 10.25 s."""
    subject = clock(live=live)
    assert subject.place(1000, 0, EIGHTH, 10.0) == going_on(1000, is_new=True)
    assert subject.place(1002, 0, EIGHTH, 10.25) == going_on(1002)
    return subject


def test_the_first_frame_begins_a_segment_at_the_given_origin() -> None:
    placed = clock().place(1000, 3, EIGHTH, 7.0, origin_pts=992)
    assert placed == going_on(1000, duration=3, origin_pts=992, is_new=True)
    assert placed.time_s == 1.0
    assert clock().place(None, 3, EIGHTH, 7.0) == going_on(0, duration=3, origin_pts=0, is_new=True)
    assert clock().place(None, 0, EIGHTH, 7.0, origin_pts=-8).time_s == 1.0


def test_a_step_back_of_a_second_is_disorder_and_a_longer_one_a_leap() -> None:
    subject = begun()
    assert subject.place(994, 0, EIGHTH, 10.5) == going_on(994)
    assert subject.time_s == 0.25  # the latest, not the last
    assert subject.place(1004, 0, EIGHTH, 10.75) == going_on(1004)
    leapt = going_on(1006, gap_s=0.0, leapt=True, duration=1)
    subject = begun()
    assert subject.place(1004, 0, EIGHTH, 10.5) == going_on(1004)
    assert subject.place(995, 1, EIGHTH, 10.75) == leapt  # 0.25 s later, as usual
    assert subject.place(996, 0, EIGHTH, 10.875) == going_on(1007)


def test_a_step_forward_is_believed_up_to_the_trusted_length() -> None:
    assert begun().place(1002 + 150 * 8, 5, EIGHTH, 10.5) == going_on(2202, duration=5)
    subject = begun()
    # One unit more is not, and 0.5 s have passed, 0.25 more than usual.
    placed = subject.place(1003 + 150 * 8, 0, EIGHTH, 10.75)
    assert placed == going_on(1006, gap_s=0.25, leapt=True)
    assert subject.place(1005 + 150 * 8, 0, EIGHTH, 11.0) == going_on(1008)
    # In a recording the hole is as long as its timestamps say, whenever the frame arrives.
    placed = begun(live=False).place(1003 + 150 * 8, 2, EIGHTH, 10.75)
    assert placed == going_on(
        2203, duration=2, origin_pts=2203, segment_s=150.375, is_new=True, gap_s=149.875, leapt=True
    )


@pytest.mark.parametrize("bits", [32, 33])
def test_a_wrapped_counter_is_believed_up_to_the_trusted_length(bits: int) -> None:
    first = 2**bits - 4
    for step, believed in ((0, False), (1, True), (150 * 8, True), (150 * 8 + 1, False)):
        subject = clock()
        subject.place(first, 0, EIGHTH, 0.0)
        placed = subject.place(first + step - 2**bits, 0, EIGHTH, 1.0)
        assert placed.pts == first + (step if believed else 8)
        assert placed.leapt is not believed
        assert placed.origin_pts == first


def test_a_counter_may_wrap_again_and_again() -> None:
    subject = clock()
    for index in range(300):
        pts = index * 2**25  # 93 s of a clock of 360 kHz
        placed = subject.place(pts % 2**32, 7, Fraction(1, 360_000), 0.0)
        assert (placed.pts, placed.duration, placed.leapt) == (pts, 7, False)


def test_a_loss_is_bridged_up_to_the_given_length() -> None:
    # A frame usually lasts for 0.25 s here, so of 4 s 3.75 are missing.
    subject = begun()
    subject.interrupt()
    placed = subject.place(5, 3, EIGHTH, 14.25)
    assert placed == going_on(1034, duration=3, gap_s=3.75, leapt=True)
    assert subject.time_s == 4.25
    subject = begun()
    subject.interrupt()
    placed = subject.place(5, 3, EIGHTH, 14.375)
    assert placed == going_on(
        5, duration=3, origin_pts=5, segment_s=4.375, is_new=True, gap_s=3.875, leapt=True
    )
    assert placed.time_s == subject.time_s == 4.375
    assert subject.place(6, 0, EIGHTH, 14.5) == going_on(6, origin_pts=5, segment_s=4.375)


def test_a_loss_takes_no_less_than_a_frame_does() -> None:
    for arrival_s in (10.375, 10.25, 3.0):  # an eighth later, at once, before the last one
        subject = begun()
        subject.interrupt()
        placed = subject.place(5, 0, EIGHTH, arrival_s)
        assert placed == going_on(1004, leapt=True)
    # The last frame says how long it takes; without any other frame it is one unit.
    for duration, pts in ((5, 1005), (0, 1001)):
        subject = clock()
        subject.place(1000, duration, EIGHTH, 10.0)
        subject.interrupt()
        assert subject.place(5, 0, EIGHTH, 10.0) == going_on(pts, leapt=True)


def test_only_the_frame_after_a_loss_is_placed_by_arrival() -> None:
    subject = clock()
    subject.interrupt()  # before any frame nothing is lost
    subject.place(1000, 0, EIGHTH, 10.0)
    assert subject.place(1002, 0, EIGHTH, 12.0) == going_on(1002)
    subject.interrupt()
    # Without a timestamp of its own; those behind it go on as before.
    assert subject.place(None, 0, EIGHTH, 12.5) == going_on(1006, gap_s=0.25, leapt=True)
    assert subject.place(1008, 0, EIGHTH, 13.5) == going_on(1008)


def test_a_frame_without_a_timestamp_follows_after_the_usual_step() -> None:
    subject = begun()
    assert subject.place(None, 4, EIGHTH, 10.25) == going_on(1004, duration=4)
    assert subject.place(None, 0, EIGHTH, 10.25) == going_on(1008)  # the last one lasts for four
    subject = clock()
    subject.place(1000, 0, EIGHTH, 10.0)
    assert subject.place(None, 0, EIGHTH, 10.5) == going_on(1001)


def test_another_time_base_begins_a_segment_where_the_last_one_was_left() -> None:
    subject = clock()
    subject.place(2**32 - 2, 0, EIGHTH, 10.0)
    assert subject.place(2, 0, EIGHTH, 10.5).time_s == 0.5
    quarter = Fraction(1, 4)
    # A second has passed, in place of the usual half.
    placed = subject.place(None, 1, quarter, 11.5)
    assert placed == going_on(
        0,
        duration=1,
        time_base=quarter,
        origin_pts=0,
        segment_s=1.5,
        is_new=True,
        gap_s=0.5,
        leapt=True,
    )
    assert subject.end_pts == 1
    # The counter wrapped in the segment before.
    placed = subject.place(2, 0, quarter, 12.0)
    assert (placed.pts, placed.time_s, placed.time_base) == (2, 2.0, quarter)


def test_the_end_of_a_frame_of_unknown_duration_is_a_step_away() -> None:
    subject = begun()
    assert subject.end_pts == 1004
    subject.place(1001, 0, EIGHTH, 10.5)  # disorder is no step
    subject.place(1001, 0, EIGHTH, 10.5)  # nor is the same time again
    assert subject.end_pts == 1003
    subject.place(1010, 3, EIGHTH, 11.0)
    assert subject.end_pts == 1013
    subject.place(5, 0, Fraction(1, 4), 11.0)  # of a new segment nothing is known
    assert subject.end_pts == 5


def test_silence_is_counted_from_the_last_arrival() -> None:
    assert clock().silent_s(99.0) == 0
    assert begun().silent_s(11.0) == 0.75
    assert clock().time_s == 0


def test_by_arrival_a_frame_lasts_until_the_next() -> None:
    subject = clock(by_arrival=True)
    placed = subject.place(77, 9, EIGHTH, 125.0)
    assert placed == going_on(1000, is_new=True)
    assert subject.place(None, 9, EIGHTH, 125.5) == going_on(1004)
    assert subject.end_pts == 1008


@given(
    pictures=st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(-(2**40), 2**40)),
            st.floats(0, 100),
            st.booleans(),
            st.sampled_from([TB, Fraction(1, 25), Fraction(1, 12_288)]),
        ),
        min_size=1,
        max_size=60,
    ),
    live=st.booleans(),
)
def test_whatever_comes_time_goes_on(
    pictures: list[tuple[int | None, float, bool, Fraction]], live: bool
) -> None:
    subject = clock(live=live)
    arrival_s, latest_s, segment_s = 0.0, float("-inf"), float("-inf")
    for pts, waited_s, lost, time_base in pictures:
        arrival_s += waited_s
        if lost:
            subject.interrupt()
        placed = subject.place(pts, 0, time_base, arrival_s)
        # Disorder among pictures is theirs to sort out; time never leaps back farther.
        assert placed.time_s >= latest_s - 1.001
        assert placed.gap_s >= 0
        if placed.is_new:
            assert placed.segment_s >= segment_s
            segment_s = placed.segment_s
        latest_s = placed.time_s


def test_a_stream_at_its_rate_neither_lags_nor_leads() -> None:
    pace = Pace()
    for day_s in range(0, 10 * 86_400, 60):
        # The camera's clock is 50 parts in a million slow, and the network jitters.
        pace.see(day_s * 1.00005 + 0.02 * (day_s % 7), day_s)
        assert pace.lag_s < 0.2
        assert abs(pace.lead_s) < 0.2


def test_what_falls_behind_lags_and_what_is_read_ahead_leads() -> None:
    slow, ahead = Pace(), Pace()
    for second in range(60):
        slow.see(second * 1.5, second)
        ahead.see(second / 100, second)
    assert slow.lag_s == pytest.approx(29.5, abs=0.1)
    assert ahead.lead_s == pytest.approx(58.4, abs=0.1)
    assert ahead.lag_s == 0


def test_a_burst_at_the_beginning_is_no_lag() -> None:
    pace = Pace()
    for second in range(5):
        pace.see(0.01 * second, second)
    for second in range(5, 100):
        pace.see(second - 4.9, second)
        assert pace.lag_s < 0.2
