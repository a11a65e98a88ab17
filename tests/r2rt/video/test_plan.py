"""Plans over made-up indexes: whatever the structure, what a chosen picture needs is decoded."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
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
    groups = pairwise(sorted({0, *entries.tolist(), len(index)}))
    assert plan.cost.skipped_gops == sum(not plan.feed[a:b].any() for a, b in groups)


@given(index=indexes())
def test_exact_plans_decode_what_chosen_frames_need(index: PacketIndex) -> None:
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
    assert plan.cost.planned_frames <= exact.cost.planned_frames


@given(index=indexes(), begin=st.integers(0, 40), length=st.integers(1, 60))
def test_parts_hold_no_frame_from_outside(index: PacketIndex, begin: int, length: int) -> None:
    clock = ClipClock(fps=CLOCK.fps, time_base=CLOCK.time_base, origin_pts=begin)
    plan = plan_exact(index, clock, begin_pts=begin, end_pts=begin + length)
    if begin >= index.end_pts:
        assert plan is None
        return
    assert plan is not None
    check(index, plan)
    assert plan.chosen_pts.min() >= begin
    assert plan.chosen_pts.max() < begin + length


def made(
    pts: list[int],
    *,
    entries: list[int],
    closed: bool = True,
    disposable: list[int] | None = None,
) -> PacketIndex:
    """An index whose packets have these presentation times; entries and so on are numbers."""
    places = np.arange(len(pts))
    entry = np.isin(places, entries)
    return PacketIndex(
        time_base=Fraction(1, 25),
        start_pts=0,
        pts=np.array(pts, np.int64),
        dts=places.astype(np.int64),
        entry=entry,
        closed=entry & closed,
        disposable=np.isin(places, disposable or []),
        shown=np.ones(len(pts), bool),
        end_pts=max(pts) + 1,
        frame_duration=1,
        unusable=None,
    )


def test_groups_without_a_chosen_frame_are_not_touched() -> None:
    index = made(list(range(100)), entries=list(range(0, 100, 10)))
    plan = plan_exact(index, CLOCK, end_pts=100)
    assert plan is not None
    # Clip 0 shows picture 24, clip 1 picture 74: the fifth of their groups.
    assert plan.chosen.tolist() == [24, 74]
    assert np.flatnonzero(plan.feed).tolist() == [*range(20, 25), *range(70, 75)]
    assert plan.cost.skipped_gops == 8
    assert not len(plan.resets)


@pytest.mark.parametrize(
    ("entry", "disposable", "skipped", "resets"),
    [
        (26, [], [], []),  # one reference lies between: decoding it is cheaper than a reset
        (28, [], [], []),  # three
        (29, [], [25, 26, 27, 28], [29]),
        (29, [26], [26], []),  # three again; the one that nothing refers to is left out
    ],
)
def test_short_leaps_into_open_groups_are_decoded_through(
    entry: int, disposable: list[int], skipped: list[int], resets: list[int]
) -> None:
    index = made(list(range(100)), entries=[0, entry], closed=False, disposable=disposable)
    plan = plan_exact(index, CLOCK, end_pts=100)
    assert plan is not None
    assert plan.chosen.tolist() == [24, 74]
    assert np.flatnonzero(~plan.feed[:75]).tolist() == skipped
    assert plan.resets.tolist() == resets


def test_a_short_leap_decodes_nothing_before_the_group_that_it_leaves() -> None:
    index = made(list(range(100)), entries=[0, 10, 26], closed=False)
    plan = plan_exact(index, CLOCK, end_pts=100)
    assert plan is not None
    assert np.flatnonzero(plan.feed).tolist() == list(range(10, 75))
    assert plan.resets.tolist() == [10]


@pytest.mark.parametrize(("entry", "begin"), [(3, 0), (4, 4)])
def test_a_short_leap_at_the_beginning_is_decoded_through_too(entry: int, begin: int) -> None:
    index = made(list(range(50)), entries=[0, entry], closed=False)
    plan = plan_exact(index, CLOCK, end_pts=50)
    assert plan is not None
    assert np.flatnonzero(plan.feed).tolist() == list(range(begin, 25))
    assert plan.resets.tolist() == [begin] * (begin > 0)


@pytest.mark.parametrize(("disposable", "skipped"), [([], [25, 27, 28, 29]), ([25], [25])])
def test_a_leap_into_a_closed_group_is_free_and_leaves_out_its_leading_frames(
    disposable: list[int], skipped: list[int]
) -> None:
    # Frames 26 to 28 are decoded after the keyframe of 29; only frame 25 lies before that.
    # Without a reference there decoding does not leap, and the leading frames are decoded.
    pts = [*range(26), 29, 26, 27, 28, *range(30, 100)]
    index = made(pts, entries=[0, 26], disposable=disposable)
    plan = plan_exact(index, CLOCK, end_pts=100)
    assert plan is not None
    assert np.flatnonzero(~plan.feed[:75]).tolist() == skipped
    assert not len(plan.resets)


def nearest_slowly(
    index: PacketIndex, num_clips: int, tolerance: int, starts: list[int]
) -> tuple[list[int], list[int]]:
    """Each clip's packet by the rule of `plan_nearest`, and by the clock's.

    Args:
        starts: for each packet the entry point before it.
    """
    order = np.argsort(index.pts).tolist()
    pts = index.pts.tolist()
    length = 1 / (CLOCK.fps * CLOCK.time_base)
    fed: dict[int, set[int]] = {}
    taken, plain = [], []
    for clip in reversed(range(num_clips)):
        middle = (clip + Fraction(1, 2)) * length
        exact = ([order[0]] + [n for n in order if pts[n] < middle])[-1]
        near = [n for n in order if abs(pts[n] - middle) <= tolerance]
        near = [n for n in near if clip * length <= pts[n] < (clip + 1) * length] + [exact]
        needs = {
            n: {k for k in range(starts[n], n + 1) if not index.disposable[k]} | {n} for n in near
        }
        best = min(
            near,
            key=lambda n: (len(needs[n] - fed.get(starts[n], set())), abs(pts[n] - pts[exact])),
        )
        fed.setdefault(starts[best], set()).update(needs[best])
        taken.append(best)
        plain.append(exact)
    return taken[::-1], plain[::-1]


def test_nearest_takes_what_adds_the_fewest_packets_and_is_nearest_then() -> None:
    cheaper = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        pts: list[int] = []
        entries: list[int] = []
        disposable: list[int] = []
        time = 0
        while time < 180:  # closed groups of references, with up to three frames before each
            entries.append(len(pts))
            for reference in range(int(rng.integers(1, 12))):
                before = int(rng.integers(0, 4)) if reference else 0
                disposable += range(len(pts) + 1, len(pts) + 1 + before)
                pts += [time + before, *range(time, time + before)]
                time += before + 1
        index = made(pts, entries=entries, disposable=disposable)
        starts = [max(e for e in entries if e <= n) for n in range(len(pts))]
        num_clips = CLOCK.num_clips(index.end_pts)
        tolerance = int(rng.integers(0, 26))
        taken, exact = nearest_slowly(index, num_clips, tolerance, starts)

        def cost(packets: list[int], index: PacketIndex = index, starts: list[int] = starts) -> int:
            spans = {k for n in packets for k in range(starts[n], n + 1)}
            return len({k for k in spans if not index.disposable[k]} | set(packets))

        plan = plan_nearest(index, CLOCK, end_pts=index.end_pts, tolerance_pts=tolerance)
        assert plan is not None
        want = taken if cost(taken) < cost(exact) else exact
        assert np.repeat(plan.chosen, plan.count).tolist() == want, seed
        assert plan.cost.planned_frames == cost(want)
        cheaper += want is taken
    assert cheaper > 20


def test_exact_is_taken_where_choosing_clip_by_clip_costs_more() -> None:
    # Clip 2 would begin its group for one picture that the exact plan does without.
    index = made([16, 69, 145, 146], entries=[0, 2])
    plan = plan_nearest(index, CLOCK, end_pts=160, tolerance_pts=25)
    assert plan is not None
    assert plan.cost.planned_frames == 2
    assert plan.chosen_pts.tolist() == [16, 69]


def test_a_frame_at_the_end_of_a_clip_belongs_to_the_next() -> None:
    # Picture 50 is decoded for clip 1 anyway, and would cost clip 0 nothing.
    index = made([0, 20, 50, 70, 99], entries=[0, 2])
    plan = plan_nearest(index, CLOCK, end_pts=100, tolerance_pts=25)
    assert plan is not None
    assert plan.chosen_pts.tolist() == [0, 50]


def test_a_clip_of_an_odd_length_ends_before_the_next() -> None:
    clock = ClipClock(fps=Fraction(25, 49), time_base=Fraction(1, 25))
    index = made([0, 20, 49, 70, 97], entries=[0, 2])
    plan = plan_nearest(index, clock, end_pts=98, tolerance_pts=25)
    assert plan is not None
    assert plan.chosen_pts.tolist() == [0, 49]


def test_what_a_later_clip_decodes_is_free_for_all_before() -> None:
    # Decoded in the order 0, 74, 24, 124: for the last one all are, so clip 0 may have its own.
    index = made([0, 74, 24, 124, 155, 160, 174, 199], entries=[0, 4])
    plan = plan_nearest(index, CLOCK, end_pts=200, tolerance_pts=25)
    assert plan is not None
    assert plan.chosen_pts.tolist() == [24, 74, 124, 155]


def test_a_frame_before_a_clip_s_fractional_beginning_belongs_to_the_one_before() -> None:
    clock = ClipClock(fps=Fraction(125, 241), time_base=Fraction(1, 25))  # clips of 48.2 ticks
    index = made([0, 20, 48, 60, 96], entries=[0, 2])
    plan = plan_nearest(index, clock, end_pts=96, tolerance_pts=24)
    assert plan is not None
    assert plan.chosen_pts.tolist() == [48, 60]


def test_a_part_begins_with_its_first_frame_and_ends_before_its_end() -> None:
    index = made(list(range(100)), entries=[0])
    plan = plan_exact(index, CLOCK, end_pts=10)
    assert plan is not None
    assert plan.chosen_pts.tolist() == [9]
    sparse = made([0, 30, 80], entries=[0])
    clock = ClipClock(fps=CLOCK.fps, time_base=CLOCK.time_base, origin_pts=30)
    for plan in (
        plan_exact(sparse, clock, begin_pts=30, end_pts=81),
        plan_nearest(sparse, clock, begin_pts=30, end_pts=81, tolerance_pts=0),
    ):
        assert plan is not None
        assert plan.chosen_pts.tolist() == [30]
    # A keyframe before the beginning would cost less.
    index = made(list(range(100)), entries=[0, 20])
    plan = plan_nearest(index, CLOCK, begin_pts=22, end_pts=50, tolerance_pts=25)
    assert plan is not None
    assert plan.chosen_pts.tolist() == [22]


def test_clips_end_with_the_video_where_the_part_is_longer() -> None:
    index = made(list(range(100)), entries=[0])
    for plan in (
        plan_exact(index, CLOCK, end_pts=1000),
        plan_nearest(index, CLOCK, end_pts=1000, tolerance_pts=0),
    ):
        assert plan is not None
        assert plan.num_clips == 2


def test_a_part_without_frames_has_no_plan() -> None:
    index = made(list(range(100)), entries=[0])
    assert plan_exact(index, CLOCK, begin_pts=100, end_pts=200) is None
    assert plan_nearest(index, CLOCK, begin_pts=100, end_pts=200, tolerance_pts=25) is None


def test_frames_that_are_not_shown_are_not_chosen() -> None:
    index = made(list(range(50)), entries=[0])
    index.shown[[20, 21, 22, 23, 24]] = False
    plan = plan_exact(index, CLOCK, end_pts=50)
    assert plan is not None
    assert plan.chosen_pts.tolist() == [19]


@pytest.mark.parametrize(
    ("entry", "tolerance", "chosen", "planned"),
    [
        (15, 10, 15, 1),  # 10 ticks before the clip's middle, at 25
        (15, 9, 16, 2),
        (35, 10, 35, 1),
        (35, 9, 16, 17),  # the first frame of the tolerance, decoded from 0 on
        (24, 0, 24, 1),  # the exact frame is always a candidate
    ],
)
def test_frames_within_the_tolerance_are_candidates(
    entry: int, tolerance: int, chosen: int, planned: int
) -> None:
    index = made(list(range(50)), entries=[0, entry])
    plan = plan_nearest(index, CLOCK, end_pts=50, tolerance_pts=tolerance)
    assert plan is not None
    assert plan.chosen_pts.tolist() == [chosen]
    assert plan.cost.planned_frames == planned


def test_of_equally_cheap_frames_the_one_nearest_to_the_exact_frame_is_taken() -> None:
    index = made(list(range(50)), entries=[0, 15, 27, 40])
    plan = plan_nearest(index, CLOCK, end_pts=50, tolerance_pts=25)
    assert plan is not None
    assert plan.chosen_pts.tolist() == [27]


def test_a_frame_that_nothing_refers_to_costs_itself_and_all_it_refers_to() -> None:
    # Frame 24 costs its keyframe and itself, frame 30 itself alone.
    index = made([10, 24, 30], entries=[0, 2], disposable=[1])
    plan = plan_nearest(index, CLOCK, end_pts=50, tolerance_pts=20)
    assert plan is not None
    assert plan.chosen_pts.tolist() == [30]
    # Frames 20 and 24 cost two packets each, since nothing refers to frame 20.
    index = made([0, 20, 24, 28], entries=[0], disposable=[1])
    plan = plan_nearest(index, CLOCK, end_pts=50, tolerance_pts=20)
    assert plan is not None
    assert plan.chosen_pts.tolist() == [24]


def test_leading_frames_behind_a_leap_are_left_out() -> None:
    # Frames 30 to 32 come after the keyframe of 33 and refer to the group before, which is skipped.
    pts = [*range(30), 33, 30, 31, 32, *range(34, 100)]
    index = made(pts, entries=[0, 30], closed=False)
    plan = plan_exact(index, CLOCK, end_pts=100)
    assert plan is not None
    assert plan.chosen_pts.tolist() == [24, 74]
    assert np.flatnonzero(plan.feed).tolist() == [*range(25), 30, *range(34, 75)]
    assert plan.resets.tolist() == [30]


def test_a_leading_frame_is_decoded_from_the_group_before() -> None:
    # Frame 24 is presented before the keyframe after which it is decoded.
    pts = [*range(20), 26, 20, 21, 22, 23, 24, 25, *range(27, 50)]
    index = made(pts, entries=[0, 10, 20], closed=False, disposable=[21, 22, 23, 24, 25, 26])
    plan = plan_exact(index, CLOCK, end_pts=50)
    assert plan is not None
    assert plan.chosen.tolist() == [25]
    assert np.flatnonzero(plan.feed).tolist() == [*range(10, 21), 25]


def test_the_first_packet_is_an_entry_point_even_if_it_is_not_marked() -> None:
    for entries in ([], [30]):
        index = made(list(range(50)), entries=entries)
        plan = plan_exact(index, CLOCK, end_pts=50)
        assert plan is not None
        assert np.flatnonzero(plan.feed).tolist() == list(range(25))
        assert plan.cost.skipped_gops == len(entries)
