"""Which packets to decode, planned from the packet index for the whole video at once.

A packet is decoded if a chosen frame is in it, or if it lies between the chosen frame and the entry
point before it and other frames refer to it. Everything else is dropped unread: groups of pictures
without a chosen frame, what follows the last chosen frame of a group, and frames that nothing
refers to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2rt.video.clock import ClipClock, select_offline
from r2rt.video.index import PacketIndex

__all__ = ["DecodePlan", "PlanCost", "plan_exact", "plan_nearest"]

# Where decoding leaps into an open group, the decoder is drained and its threads fall idle. Leaping
# over fewer frames than this costs more than decoding them.
SHORTEST_OPEN_LEAP = 4


@dataclass(frozen=True, kw_only=True)
class PlanCost:
    """What a plan decodes, against decoding everything.

    Attributes:
        planned_frames: packets that are decoded.
        total_frames: packets that there are.
        skipped_gops: groups of pictures, from entry point to entry point, that are not touched.
    """

    planned_frames: int
    total_frames: int
    skipped_gops: int


@dataclass(frozen=True, kw_only=True)
class DecodePlan:
    """Which packets to decode, and which frames stand for which clips.

    Attributes:
        num_clips: how many clips the source has.
        feed: (N,) bool: packet n is given to the decoder.
        resets: ascending packet numbers before which the decoder is drained and reset.
        chosen: (F,) int64 packet numbers of the chosen frames, in order of presentation.
        chosen_pts: (F,) int64 their presentation times, strictly ascending.
        clip_index: (F,) int64 the first clip that each stands for.
        count: (F,) int64 for how many clips.
        cost: what the plan costs.
    """

    num_clips: int
    feed: NDArray[np.bool_]
    resets: NDArray[np.int64]
    chosen: NDArray[np.int64]
    chosen_pts: NDArray[np.int64]
    clip_index: NDArray[np.int64]
    count: NDArray[np.int64]
    cost: PlanCost


@dataclass(frozen=True, kw_only=True)
class _Frames:
    """The frames of the part that is read, in order of presentation.

    Attributes:
        packets: (F,) int64 their packets' numbers.
        pts: (F,) int64 their times, strictly ascending.
        exact: (num_clips,) int64 which of them stands for each clip under the rule of the clock.
    """

    packets: NDArray[np.int64]
    pts: NDArray[np.int64]
    exact: NDArray[np.int64]


def plan_exact(
    index: PacketIndex, clock: ClipClock, *, end_pts: int, begin_pts: int | None = None
) -> DecodePlan | None:
    """Plan to decode what the exact frames of all clips depend on, and nothing else.

    Args:
        index: a usable index.
        clock: the clips' clock.
        end_pts: where the part that is read ends.
        begin_pts: where it begins; None reads from the first frame, even one before clip 0.

    Returns:
        The plan, or None if no frame lies in that part.
    """
    frames = _frames(index, clock, begin_pts, end_pts)
    return None if frames is None else _plan(index, frames, frames.exact)


def plan_nearest(
    index: PacketIndex,
    clock: ClipClock,
    *,
    end_pts: int,
    begin_pts: int | None = None,
    tolerance_pts: int,
) -> DecodePlan | None:
    """Plan to decode as little as possible, each clip shown by any frame close to its middle.

    A frame qualifies for clip n if it is presented within the clip and within `tolerance_pts` of
    (n + 1/2) / fps; the exact frame always does. Clips are settled from the last to the first, so
    that each knows how far its group of pictures is decoded anyway: it takes the frame that adds
    the fewest packets and, among those, the one closest to the exact frame. Where that costs more
    in the end than the exact plan, the exact plan is returned.
    """
    frames = _frames(index, clock, begin_pts, end_pts)
    if frames is None:
        return None
    starts = _dependency_starts(index)[frames.packets]
    # References decoded before a frame and including it, if it is one.
    references = np.cumsum(~index.disposable)
    before_start = references[starts] - 1
    depth = references[frames.packets] - before_start
    extra = index.disposable[frames.packets].astype(np.int64)

    reached: dict[int, int] = {}
    taken = frames.exact.copy()
    for clip in range(len(taken) - 1, -1, -1):
        exact = int(frames.exact[clip])
        window = np.append(_near(frames.pts, clock, clip, tolerance_pts), exact)
        known = np.array([reached.get(int(start), 0) for start in starts[window]])
        added = np.maximum(depth[window] - known, 0) + extra[window]
        distance = np.abs(frames.pts[window] - frames.pts[exact])
        best = int(window[np.lexsort((distance, added))[0]])
        taken[clip] = best
        start = int(starts[best])
        reached[start] = max(reached.get(start, 0), int(depth[best]))
    nearest, plain = _plan(index, frames, taken), _plan(index, frames, frames.exact)
    return min(plain, nearest, key=lambda plan: plan.cost.planned_frames)


def _near(
    pts: NDArray[np.int64], clock: ClipClock, clip: int, tolerance_pts: int
) -> NDArray[np.int64]:
    """Return the frames of a clip, (M,) places in `pts`, that are close to its middle."""
    begin, end = (
        clock.origin_pts + math.ceil(number / clock.fps / clock.time_base)
        for number in (clip, clip + 1)
    )
    middle = clock.pts_of((2 * clip + 1) / (2 * clock.fps))
    low = np.searchsorted(pts, max(begin, middle - tolerance_pts))
    high = np.searchsorted(pts, min(end - 1, middle + tolerance_pts), "right")
    return np.arange(low, high)


def _frames(
    index: PacketIndex, clock: ClipClock, begin_pts: int | None, end_pts: int
) -> _Frames | None:
    inside = index.shown & (index.pts < end_pts)
    if begin_pts is not None:
        inside &= index.pts >= begin_pts
    packets = np.flatnonzero(inside)
    if not len(packets):
        return None
    packets = packets[np.argsort(index.pts[packets])]
    pts = index.pts[packets]
    exact = select_offline(clock.ticks(pts), clock.num_clips(min(end_pts, index.end_pts)))
    return _Frames(packets=packets, pts=pts, exact=exact)


def _entries(index: PacketIndex) -> NDArray[np.int64]:
    """Return the entry points; the first packet is one, since nothing lies before it."""
    entries = np.flatnonzero(index.entry)
    return entries if len(entries) and entries[0] == 0 else np.concatenate(([0], entries))


def _dependency_starts(index: PacketIndex) -> NDArray[np.int64]:
    """Return for each packet where decoding must begin for its frame to be exact.

    That is the entry point before it; but a frame that is decoded after an entry point and
    presented before it (an open group's leading frame) may refer to the group before.
    """
    entries = _entries(index)
    group = np.searchsorted(entries, np.arange(len(index)), side="right") - 1
    is_leading = index.pts < index.pts[entries[group]]
    return np.asarray(entries[np.maximum(group - is_leading, 0)], np.int64)


def _plan(index: PacketIndex, frames: _Frames, taken: NDArray[np.int64]) -> DecodePlan:
    """Turn the frame taken for each clip, (num_clips,) ascending, into a plan."""
    places, clip_index, count = np.unique(taken, return_index=True, return_counts=True)
    chosen = frames.packets[places]
    feed, resets = _feed(index, chosen)
    groups_fed = np.add.reduceat(feed.astype(np.int64), _entries(index)) > 0
    return DecodePlan(
        num_clips=len(taken),
        feed=feed,
        resets=resets,
        chosen=chosen,
        chosen_pts=frames.pts[places],
        clip_index=clip_index,
        count=count,
        cost=PlanCost(
            planned_frames=int(feed.sum()),
            total_frames=len(index),
            skipped_gops=int((~groups_fed).sum()),
        ),
    )


def _feed(
    index: PacketIndex, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which packets to decode, (N,) bool, and those before which to reset the decoder."""
    needed = _covered(len(index), _dependency_starts(index)[chosen], chosen)
    feed = needed & ~index.disposable
    feed[chosen] = True

    # Between spans of needed packets decoding leaps, unless no reference frame lies there.
    references = np.concatenate(([0], np.cumsum(~index.disposable)))
    first = np.flatnonzero(needed & ~np.concatenate(([False], needed[:-1])))
    last = np.flatnonzero(needed & ~np.concatenate((needed[1:], [False])))
    stops = np.concatenate(([0], last[:-1] + 1))
    missed = references[first] - references[stops]
    closed = index.closed[first]
    for gap in np.flatnonzero(~closed & (missed > 0) & (missed < SHORTEST_OPEN_LEAP)):
        between = slice(stops[gap], first[gap])
        feed[between] = ~index.disposable[between]
    leaps = first[(missed > 0) & (closed | (missed >= SHORTEST_OPEN_LEAP))]
    _drop_leading(index, feed, leaps)
    return feed, np.asarray(leaps[~index.closed[leaps]], np.int64)


def _covered(length: int, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (length,) bool: within any of the spans from `starts` through `stops`."""
    steps = np.zeros(length + 1, np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, stops + 1, -1)
    return np.asarray(np.cumsum(steps[:-1]) > 0)


def _drop_leading(index: PacketIndex, feed: NDArray[np.bool_], leaps: NDArray[np.int64]) -> None:
    """Leave out leading frames of groups that are leapt into: what they refer to was skipped."""
    entries = _entries(index)
    stops = np.append(entries, len(index))
    for leap in leaps:
        stop = stops[np.searchsorted(stops, leap, side="right")]
        feed[leap:stop] &= index.pts[leap:stop] >= index.pts[leap]
