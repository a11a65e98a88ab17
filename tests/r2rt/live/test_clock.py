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
