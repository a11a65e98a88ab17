"""Running a decode plan: packets in, chosen pictures out, damage counted a packet at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av.error

from r2rt.video.clock import ClipClock, ClipSelector
from r2rt.video.demux import Demuxer
from r2rt.video.plan import DecodePlan

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = [
    "DecodeCounts",
    "Picked",
    "TimeGuesser",
    "decode_all",
    "decode_packet",
    "decode_planned",
    "drain",
]


@dataclass(kw_only=True)
class DecodeCounts:
    """Counts that grow while a source is read; see `DecodeReport` for their meaning."""

    frames_decoded: int = 0
    packets: int = 0
    packets_decoded: int = 0
    packets_lost: int = 0
    frames_replaced: int = 0


@dataclass(frozen=True)
class Picked:
    """A decoded picture, when it is presented, and the clips that it stands for."""

    frame: VideoFrame
    pts: int
    clip_index: int
    count: int


def decode_planned(demuxer: Demuxer, plan: DecodePlan, counts: DecodeCounts) -> Iterator[Picked]:
    """Decode what the plan says and yield the chosen pictures in order of presentation.

    A chosen picture that does not come out is replaced by the picture that came out before it, or
    after it if there is none.
    """
    queue = _ChosenQueue(plan, counts)
    resets = iter([*plan.resets.tolist(), -1])
    next_reset = next(resets)
    last_fed = int(plan.feed.nonzero()[0][-1])
    for number, packet in enumerate(demuxer.packets()):
        counts.packets = number + 1
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
        for frame in decode_packet(demuxer, packet, counts):
            yield from queue.take(frame)
    for frame in drain(demuxer, counts):
        yield from queue.take(frame)
    yield from queue.give_up_before(len(plan.feed))
    counts.packets = len(plan.feed)
    counts.packets_lost += demuxer.read_errors


def decode_all(
    demuxer: Demuxer,
    clock: ClipClock,
    counts: DecodeCounts,
    *,
    frame_duration: int,
    end_pts: int | None = None,
    begin_pts: int | None = None,
) -> Iterator[Picked]:
    """Decode everything and yield the pictures that stand for clips under the clock's rule.

    Args:
        demuxer: where packets come from.
        clock: the clips' clock.
        counts: counts to add to.
        frame_duration: what to assume for pictures without duration or time.
        end_pts: pictures from here on are left out; None reads to the end.
        begin_pts: pictures before it are left out.
    """
    selector: ClipSelector[tuple[VideoFrame, int]] = ClipSelector(clock)
    times = TimeGuesser(frame_duration)
    last_end: int | None = None
    for frame in _all_frames(demuxer, counts):
        pts = times.guess(frame)
        if begin_pts is not None and pts < begin_pts:
            continue
        if end_pts is not None and pts >= end_pts:
            continue
        duration = frame.duration or frame_duration
        last_end = pts + duration
        selection = selector.push((frame, pts), pts, duration)
        if selection is not None:
            yield Picked(*selection.frame, selection.clip_index, selection.count)
    if last_end is not None:
        selection = selector.finish(last_end if end_pts is None else min(last_end, end_pts))
        if selection is not None:
            yield Picked(*selection.frame, selection.clip_index, selection.count)
    counts.packets_lost += demuxer.read_errors


class _ChosenQueue:
    """Hands out chosen pictures in order as the decoder yields pictures in order."""

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


class TimeGuesser:
    """Times of pictures that come out in order, whatever the container made of them.

    Presentation times are believed until they have run backwards more often than decoding times;
    then the decoding time that came with the picture is, and where there is neither, one picture
    follows the other.
    """

    def __init__(self, frame_duration: int) -> None:
        self._duration = frame_duration
        self._faults = [0, 0]
        self._last: list[int | None] = [None, None]
        self._expected = 0

    def guess(self, frame: VideoFrame) -> int:
        """Return the time of the picture that comes out next."""
        pts, dts = frame.pts, frame.dts
        for place, value in enumerate((pts, dts)):
            if value is None:
                continue
            last = self._last[place]
            self._faults[place] += last is not None and value <= last
            self._last[place] = value
        chosen = (
            pts if dts is None or (pts is not None and self._faults[0] <= self._faults[1]) else dts
        )
        time = self._expected if chosen is None else chosen
        self._expected = time + (frame.duration or self._duration)
        return time


def _all_frames(demuxer: Demuxer, counts: DecodeCounts) -> Iterator[VideoFrame]:
    for packet in demuxer.packets():
        counts.packets += 1
        yield from decode_packet(demuxer, packet, counts)
    yield from drain(demuxer, counts)


def decode_packet(
    demuxer: Demuxer, packet: Packet[VideoStream], counts: DecodeCounts
) -> list[VideoFrame]:
    """Return what comes out of the decoder for a packet; one that it refuses is counted."""
    counts.packets_decoded += 1
    try:
        frames = demuxer.stream.codec_context.decode(packet)
    except av.error.FFmpegError:
        counts.packets_lost += 1
        return []
    counts.frames_decoded += len(frames)
    return frames


def drain(demuxer: Demuxer, counts: DecodeCounts) -> list[VideoFrame]:
    """Return what the decoder still holds and make it ready for a new entry point.

    A decoder that fails while it is drained cannot be asked again: what its other threads hold, a
    few pictures, is lost with the damaged one.
    """
    context = demuxer.stream.codec_context
    frames: list[VideoFrame] = []
    try:
        frames = context.decode(None)
    except av.error.EOFError:
        pass
    except av.error.FFmpegError:
        counts.packets_lost += 1
    context.flush_buffers()
    counts.frames_decoded += len(frames)
    return frames
