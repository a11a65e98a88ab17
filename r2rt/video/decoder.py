"""Running a decode plan: packets in, chosen frames out, damage counted a packet at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import av.error
import numpy as np

from r2rt.video.clock import ClipClock, ClipSelector, Selection
from r2rt.video.demux import Demuxer
from r2rt.video.index import PacketIndex
from r2rt.video.plan import DecodePlan

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = [
    "DecodeCounts",
    "Picked",
    "decode_all",
    "decode_packet",
    "decode_packets",
    "decode_planned",
    "decode_tail",
    "drain",
]


@dataclass(kw_only=True)
class DecodeCounts:
    """Counts that grow while a source is read; see `DecodeReport` for their meaning.

    Attributes:
        frames_decoded, packets, packets_decoded, frames_replaced: as there.
        read_errors: how often the container could not be read on.
        refused_at: of each packet that the decoder refused, the value of `packets` by then.
    """

    frames_decoded: int = 0
    packets: int = 0
    packets_decoded: int = 0
    read_errors: int = 0
    refused_at: list[int] = field(default_factory=list)
    frames_replaced: int = 0

    @property
    def packets_lost(self) -> int:
        """Packets that could not be decoded or read."""
        return len(self.refused_at) + self.read_errors


@dataclass(frozen=True)
class Picked:
    """A decoded frame, when it is presented, and the clips that it stands for."""

    frame: VideoFrame
    pts: int
    clip_index: int
    count: int


def decode_planned(demuxer: Demuxer, plan: DecodePlan, counts: DecodeCounts) -> Iterator[Picked]:
    """Decode what the plan says and yield the chosen frames in order of presentation.

    A chosen frame that does not come out is replaced by the frame that came out before it, or
    after it if there is none. The last ones are not, and the one before them is not yielded, since
    nothing shows how long it lasts: see `decode_tail`.
    """
    held: Picked | None = None
    for picked in _planned(demuxer, plan, counts):
        if held is not None:
            yield held
        held = picked
    if held is not None and held.clip_index + held.count == plan.num_clips:
        yield held


def _planned(demuxer: Demuxer, plan: DecodePlan, counts: DecodeCounts) -> Iterator[Picked]:
    queue = _ChosenQueue(plan, counts)
    resets = iter([*plan.resets.tolist(), -1])
    next_reset = next(resets)
    last_fed = int(plan.feed.nonzero()[0][-1])
    for number, packet in enumerate(demuxer.packets()):
        if number > last_fed or number >= len(plan.feed):
            break
        if not plan.feed[number]:
            continue
        if number == next_reset:
            if counts.packets_decoded:
                for frame in drain(demuxer, counts):
                    yield from queue.take(frame)
                yield from queue.give_up_before(number)
            next_reset = next(resets)
        counts.packets = number + 1
        for frame in decode_packet(demuxer, packet, counts):
            yield from queue.take(frame)
    for frame in drain(demuxer, counts):
        yield from queue.take(frame)
    counts.packets = len(plan.feed)
    counts.read_errors += demuxer.read_errors


def decode_tail(
    demuxer: Demuxer,
    index: PacketIndex,
    clock: ClipClock,
    counts: DecodeCounts,
    *,
    from_clip: int,
    begin_pts: int | None,
    end_pts: int | None,
) -> Iterator[Picked]:
    """Yield the frames of the last clips, whose chosen frames did not come out.

    Everything that may show these clips is decoded, and the video ends with the last frame that
    comes out, as for the ffmpeg program. Clips that begin after it are not yielded.

    Args:
        demuxer: the file, from its beginning.
        index: its packets.
        clock: the clips' clock.
        counts: those of `decode_planned`, to add to.
        from_clip: the first clip to yield.
        begin_pts: frames before it are left out.
        end_pts: frames from here on are left out; None reads to the end.
    """
    # The frame shown before these clips may be theirs too: it is the last before their middle.
    begin = clock.pts_of((from_clip + Fraction(1, 2)) / clock.fps)
    before = np.flatnonzero(index.entry & index.shown & (index.pts <= begin))
    # One entry point earlier, since leading frames of an open group depend on the group before.
    start = int(before[-2]) if from_clip and len(before) > 1 else 0
    # What the plan gave to the decoder is given to it again, and refused again.
    counts.refused_at = [packets for packets in counts.refused_at if packets <= start]
    selector: ClipSelector[tuple[VideoFrame, int]] = ClipSelector(clock)
    last_end: int | None = None
    packets = itertools.islice(demuxer.packets(), start, len(index))
    for frame in decode_packets(demuxer, packets, counts):
        pts = frame.pts
        if pts is None or (end_pts is not None and pts >= end_pts):
            continue
        if begin_pts is not None and pts < begin_pts:
            continue
        last_end = pts + (frame.duration or index.frame_duration)
        yield from _from(selector.push((frame, pts), pts), from_clip)
    if last_end is not None:
        end = last_end if end_pts is None else min(last_end, end_pts)
        yield from _from(selector.finish(end), from_clip)


def _from(selection: Selection[tuple[VideoFrame, int]] | None, from_clip: int) -> Iterator[Picked]:
    """Yield what a selection holds of the clips from one on."""
    if selection is None:
        return
    first = max(selection.clip_index, from_clip)
    count = selection.clip_index + selection.count - first
    if count > 0:
        yield Picked(*selection.frame, first, count)


def decode_all(
    demuxer: Demuxer,
    index: PacketIndex,
    clock: ClipClock,
    counts: DecodeCounts,
    *,
    end_pts: int | None = None,
    begin_pts: int | None = None,
) -> Iterator[Picked]:
    """Decode everything and yield the frames that stand for clips under the clock's rule.

    Args:
        demuxer: where packets come from.
        index: its packets; what was written to the file since is left out.
        clock: the clips' clock.
        counts: counts to add to.
        end_pts: frames from here on are left out; None reads to the end.
        begin_pts: frames before it are left out.
    """
    selector: ClipSelector[tuple[VideoFrame, int]] = ClipSelector(clock)
    times = index.time_guesser()
    last_end: int | None = None
    for frame in _all_frames(demuxer, len(index), counts):
        pts = times.guess(frame)
        if begin_pts is not None and pts < begin_pts:
            continue
        if end_pts is not None and pts >= end_pts:
            continue
        duration = frame.duration or index.frame_duration
        last_end = pts + duration
        yield from _from(selector.push((frame, pts), pts, duration), 0)
    if last_end is not None:
        if abs(last_end - index.end_pts) <= index.frame_duration:
            last_end = index.end_pts  # the container knows better how long the last frame lasts
        end = last_end if end_pts is None else min(last_end, end_pts)
        yield from _from(selector.finish(end), 0)
    counts.read_errors += demuxer.read_errors


class _ChosenQueue:
    """Hands out chosen frames in order as the decoder yields frames in order."""

    def __init__(self, plan: DecodePlan, counts: DecodeCounts) -> None:
        self._plan = plan
        self._counts = counts
        self._next = 0
        self._pts: list[int] = plan.chosen_pts.tolist()
        self._previous: VideoFrame | None = None

    def take(self, frame: VideoFrame) -> Iterator[Picked]:
        pts = frame.pts
        if pts is None:
            return
        while self._next < len(self._pts) and self._pts[self._next] < pts:
            yield self._replaced(self._previous or frame)
        if self._next < len(self._pts) and self._pts[self._next] == pts:
            yield self._picked(frame)
        self._previous = frame

    def give_up_before(self, packet_number: int) -> Iterator[Picked]:
        """Replace what was chosen before a packet and can no longer come out."""
        chosen = self._plan.chosen
        while (
            self._previous is not None
            and self._next < len(self._pts)
            and chosen[self._next] < packet_number
        ):
            yield self._replaced(self._previous)

    def _replaced(self, frame: VideoFrame) -> Picked:
        self._counts.frames_replaced += 1
        return self._picked(frame)

    def _picked(self, frame: VideoFrame) -> Picked:
        place = self._next
        self._next += 1
        pts = self._pts[place] if frame.pts is None else frame.pts
        return Picked(frame, pts, int(self._plan.clip_index[place]), int(self._plan.count[place]))


def _all_frames(demuxer: Demuxer, most: int, counts: DecodeCounts) -> Iterator[VideoFrame]:
    for packet in demuxer.packets():
        if counts.packets == most:
            break
        counts.packets += 1
        yield from decode_packet(demuxer, packet, counts)
    yield from drain(demuxer, counts)


def decode_packets(
    demuxer: Demuxer, packets: Iterator[Packet[VideoStream]], counts: DecodeCounts
) -> Iterator[VideoFrame]:
    """Yield what comes out of the decoder for packets, and what it holds after the last of them."""
    for packet in packets:
        yield from decode_packet(demuxer, packet, counts)
    yield from drain(demuxer, counts)


def decode_packet(
    demuxer: Demuxer, packet: Packet[VideoStream], counts: DecodeCounts
) -> list[VideoFrame]:
    """Return what comes out of the decoder for a packet; one that it refuses is counted."""
    counts.packets_decoded += 1
    try:
        frames = demuxer.decode(packet)
    except av.error.FFmpegError:
        counts.refused_at.append(counts.packets)
        return []
    counts.frames_decoded += len(frames)
    return frames


def drain(demuxer: Demuxer, counts: DecodeCounts) -> list[VideoFrame]:
    """Return what the decoder still holds and make it ready for a new entry point.

    A decoder that fails while it is drained cannot be asked again: what its other threads hold, a
    few frames, is lost with the damaged one.
    """
    frames: list[VideoFrame] = []
    try:
        frames = demuxer.decode(None)
    except av.error.EOFError:
        pass
    except av.error.FFmpegError:
        counts.refused_at.append(counts.packets)
    demuxer.context.flush_buffers()
    counts.frames_decoded += len(frames)
    return frames
