"""Plans over made-up indexes: whatever the structure, what a chosen picture needs is decoded."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from r2rt.video.clock import ClipClock
from r2rt.video.index import PacketIndex
from r2rt.video.plan import DecodePlan, plan_exact, plan_nearest

CLOCK = ClipClock(fps=Fraction(1, 2), time_base=Fraction(1, 25))


@st.composite
def indexes(draw: st.DrawFn) -> PacketIndex:
    """Groups of a keyframe and mini-groups (reference, then unreferred pictures before it)."""
    pts: list[int] = []
    entry: list[bool] = []
    closed: list[bool] = []
    disposable: list[bool] = []
    time = 0
    for _ in range(draw(st.integers(1, 6))):
        leading = draw(st.integers(0, 3)) if pts else 0
        is_closed = not leading and draw(st.booleans())
        pts += [time + leading, *range(time, time + leading)]
        entry += [True] + [False] * leading
        closed += [is_closed] + [False] * leading
        disposable += [False] + [draw(st.booleans()) for _ in range(leading)]
        time += leading + 1
        for _ in range(draw(st.integers(0, 12))):
            between = draw(st.integers(0, 3))
            pts += [time + between, *range(time, time + between)]
            entry += [False] * (between + 1)
            closed += [False] * (between + 1)
            disposable += [False] + [True] * between
            time += between + 1
    count = len(pts)
    return PacketIndex(
        time_base=CLOCK.time_base,
        start_pts=0,
        pts=np.array(pts, np.int64),
        dts=np.arange(count, dtype=np.int64),
        entry=np.array(entry),
        closed=np.array(closed),
        disposable=np.array(disposable),
        shown=np.ones(count, bool),
        end_pts=time,
        frame_duration=1,
        unusable=None,
    )


def check(index: PacketIndex, plan: DecodePlan) -> None:
    """Run the plan on a decoder that knows the structure: every chosen picture must be exact."""
    resets = set(plan.resets.tolist())
    entries = np.flatnonzero(index.entry)
    group = np.searchsorted(entries, np.arange(len(index)), side="right") - 1
    trailing = index.pts >= index.pts[entries[group]]
    fed = np.flatnonzero(plan.feed).tolist()
    for before, number in pairwise(fed):
        between = slice(before + 1, number)
        skips_reference = bool((trailing & ~index.disposable)[between].any())
        if skips_reference and index.entry[number] and not index.closed[number]:
            assert number in resets
    assert resets <= set(fed)

    start = 0
    whole = previous_whole = False  # no reference of the group, or of the one before, was left out
    exact: set[int] = set()
    for number in range(len(index)):
        if index.entry[number]:
            previous_whole = whole and number not in resets
            start = number
            whole = True
        is_leading = index.pts[number] < index.pts[start]
        if not plan.feed[number]:
            # Leading pictures are nothing to those behind the keyframe, but may be to each other.
            previous_whole &= bool(index.disposable[number]) or not is_leading
            whole &= bool(index.disposable[number]) or is_leading
        elif whole and (previous_whole or not is_leading):
            exact.add(number)
    assert set(plan.chosen.tolist()) <= exact
    assert plan.feed[plan.chosen].all()
    assert (np.diff(plan.chosen_pts) > 0).all()
    assert plan.clip_index[0] == 0
    assert (plan.clip_index + plan.count)[-1] == plan.num_clips
    assert (np.diff(plan.clip_index) == plan.count[:-1]).all()
    assert plan.cost.planned_frames == int(plan.feed.sum()) <= plan.cost.total_frames == len(index)


@given(index=indexes())
def test_exact_plans_decode_what_chosen_pictures_need(index: PacketIndex) -> None:
    plan = plan_exact(index, CLOCK, end_pts=index.end_pts)
    assert plan is not None
    check(index, plan)


@given(index=indexes(), tolerance=st.integers(0, 25))
def test_nearest_plans_too_and_cost_no_more(index: PacketIndex, tolerance: int) -> None:
    plan = plan_nearest(index, CLOCK, end_pts=index.end_pts, tolerance_pts=tolerance)
    exact = plan_exact(index, CLOCK, end_pts=index.end_pts)
    assert plan is not None
    assert exact is not None
    check(index, plan)
    assert plan.num_clips == exact.num_clips


@given(index=indexes(), begin=st.integers(0, 40), length=st.integers(1, 60))
def test_parts_hold_no_picture_from_outside(index: PacketIndex, begin: int, length: int) -> None:
    clock = ClipClock(fps=CLOCK.fps, time_base=CLOCK.time_base, origin_pts=begin)
    plan = plan_exact(index, clock, begin_pts=begin, end_pts=begin + length)
    if begin >= index.end_pts:
        assert plan is None
        return
    assert plan is not None
    check(index, plan)
    assert plan.chosen_pts.min() >= begin
    assert plan.chosen_pts.max() < begin + length


def test_groups_without_a_chosen_picture_are_not_touched() -> None:
    count = 100
    places = np.arange(count)
    index = PacketIndex(
        time_base=Fraction(1, 25),
        start_pts=0,
        pts=places.astype(np.int64),
        dts=places.astype(np.int64),
        entry=places % 10 == 0,
        closed=places % 10 == 0,
        disposable=np.zeros(count, bool),
        shown=np.ones(count, bool),
        end_pts=count,
        frame_duration=1,
        unusable=None,
    )
    plan = plan_exact(index, CLOCK, end_pts=count)
    assert plan is not None
    # Clip 0 shows picture 24, clip 1 picture 74: the fifth of their groups.
    assert plan.chosen.tolist() == [24, 74]
    assert np.flatnonzero(plan.feed).tolist() == [*range(20, 25), *range(70, 75)]
    assert plan.cost.skipped_gops == 8
    assert not len(plan.resets)
