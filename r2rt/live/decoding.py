"""Packets of one connection in, frames with their arrival times out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import av.error

from r2rt.live.counts import ReaderCounts
from r2rt.live.pace import Pace
from r2rt.live.source import Connection, LiveSource
from r2rt.video.leaps import leap_closer

if TYPE_CHECKING:
    from av import VideoFrame
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["Decoded", "PacketDecoder"]

_log = logging.getLogger(__name__)
# Packets to wait for a keyframe: streams that refresh bit by bit have none.
_PACKETS_WITHOUT_KEYFRAME = 300
_UNTIMED_KEPT = 16
# Frames come out of order and in bursts: less is not behind, however short the clips are.
_LATE_S = 1.0
# Who waited so long for a packet had read all before it. Longer than a web server usually takes
# to begin its answer, shorter than the pause between two bursts of a stream.
_WAITED_S = 0.2
# Timestamps farther apart say nothing about the pace at which they come.
_LEAP_S = 60.0
# Arrival times of packets whose frames are still in the decoder.
_ARRIVALS_KEPT = 512


class Decoded(NamedTuple):
    """A decoded frame, its timestamp (None where it has none), and when it arrived."""

    frame: VideoFrame
    pts: int | None
    arrival_s: float


class PacketDecoder:
    """Decodes the packets of one connection, and leaves frames out while it falls behind.

    Attributes:
        pace: how timely the connection's packets come.

    Args:
        connection: where the packets come from.
        source: what it is a connection to.
        counts: where lost packets and frames left out are counted.
        clip_s: seconds of a clip; less is not behind.
        sleep: waits so many seconds, or until reading is stopped.
    """

    def __init__(
        self,
        connection: Connection,
        source: LiveSource,
        counts: ReaderCounts,
        *,
        clip_s: float,
        sleep: Callable[[float], object],
    ) -> None:
        self.pace = Pace()
        self._counts = counts
        self._late_s = max(clip_s, _LATE_S)
        self._sleep = sleep
        self._played = source.kind == "file"
        self._name = source.name
        # What is read from a file has one clock here and in `r2rt ground`; a live source's clock
        # is mended by arrival times.
        self._closer = (
            None if source.is_live else leap_closer(connection.container, connection.stream)
        )
        self._context = connection.stream.codec_context
        self._arrivals: dict[int, float] = {}
        self._untimed: list[tuple[VideoFrame, float]] = []
        self._timed = False
        self._began = False
        self._unbegun = 0
        self._origin: tuple[float, float] | None = None
        self._skipping = "DEFAULT"
        self._last_time_s = float("-inf")
        self._may_skip = not source.may_wait and not source.options.no_drop

    def take(self, packet: Packet[VideoStream], *, waited_s: float = 0.0) -> Iterator[Decoded]:
        """Decode a packet, at its time if a file is played, and yield the frames that are ready.

        Args:
            packet: it, with content.
            waited_s: how long reading it took.
        """
        self._close_leap(packet)
        self._sleep_until_due(packet)
        arrival_s = time.monotonic()
        self._observe_pace(packet, arrival_s)
        if waited_s > _WAITED_S:
            self.pace.catch_up()
        if not self._began and not self._may_begin(packet):
            return
        if self._may_skip and not self._keep_up(packet):
            return
        if packet.pts is not None:
            self._arrivals[packet.pts] = arrival_s
            if len(self._arrivals) > _ARRIVALS_KEPT:
                del self._arrivals[next(iter(self._arrivals))]
        try:
            frames = self._context.decode(packet)
        except av.error.FFmpegError:
            self._counts.packets_lost += 1
            return
        if not frames and self._skipping == "NONREF":
            self._counts.frames_skipped += 1
        for frame in frames:
            yield from self._timed_frames(frame, arrival_s)
        if self._skipping == "KEYS":
            # What would put this frame in order with those that are skipped never comes.
            yield from self.drain()
            self._context.flush_buffers()

    def drain(self) -> Iterator[Decoded]:
        """Yield the frames that the decoder still holds."""
        try:
            frames = self._context.decode(None)
        except av.error.FFmpegError:
            return
        for frame in frames:
            yield from self._timed_frames(frame, time.monotonic())

    def _timed_frames(self, frame: VideoFrame, arrival_s: float) -> Iterator[Decoded]:
        """Yield a frame, after those that waited for the first timestamp."""
        pts = frame.pts if frame.pts is not None else frame.dts
        if pts is None and not self._timed and len(self._untimed) < _UNTIMED_KEPT:
            # RTP gives the time of the second frame: the first one came just before it.
            self._untimed.append((frame, arrival_s))
            return
        if not self._timed:
            self._timed = True
            step = frame.duration or 0
            for steps, (early, early_arrival_s) in zip(
                range(len(self._untimed), 0, -1), self._untimed, strict=True
            ):
                early_pts = None if pts is None else pts - steps * step
                yield Decoded(early, early_pts, early_arrival_s)
            self._untimed = []
        arrival_s = self._arrivals.pop(pts, arrival_s) if pts is not None else arrival_s
        yield Decoded(frame, pts, arrival_s)

    def _close_leap(self, packet: Packet[VideoStream]) -> None:
        """Move the packet's timestamps if the clock leaps, as `r2rt ground` and ffmpeg do."""
        if self._closer is None:
            return
        leaps = self._closer.leaps
        packet.pts, packet.dts = self._closer.place(packet.pts, packet.dts, packet.duration or 0)
        if self._closer.leaps > leaps:
            _log.warning("%s: the clock leaps; the leap is closed", self._name)

    def _observe_pace(self, packet: Packet[VideoStream], arrival_s: float) -> None:
        """Measure how timely packets come, by their decoding order, which is never disordered."""
        ticks = packet.dts if packet.dts is not None else packet.pts
        if ticks is None or packet.time_base is None:
            return
        time_s = float(ticks * packet.time_base)
        if not 0 <= time_s - self._last_time_s <= _LEAP_S:
            self.pace = Pace()
        self._last_time_s = time_s
        self.pace.see(arrival_s, time_s)

    def _may_begin(self, packet: Packet[VideoStream]) -> bool:
        """Return whether decoding can begin here: frames before a keyframe are grey mush."""
        self._unbegun += 1
        self._began = packet.is_keyframe or self._unbegun > _PACKETS_WITHOUT_KEYFRAME
        return self._began

    def _keep_up(self, packet: Packet[VideoStream]) -> bool:
        """Skip what decoding can do without while it is behind; return whether to decode this."""
        lag_s, late_s = self.pace.lag_s, self._late_s
        if self._skipping == "KEYS":
            if not packet.is_keyframe:
                self._counts.frames_skipped += 1
                return False
            self._skip("KEYS" if lag_s > late_s else "DEFAULT")
        elif lag_s > 3 * late_s:
            self._skip("KEYS")
        elif lag_s > late_s:
            self._skip("NONREF")
        elif lag_s < late_s / 2 and self._skipping != "DEFAULT":
            self._skip("DEFAULT")
        return True

    def _skip(self, what: str) -> None:
        self._skipping = what
        self._context.skip_frame = "NONREF" if what == "NONREF" else "DEFAULT"

    def _sleep_until_due(self, packet: Packet[VideoStream]) -> None:
        """Play a file at its own rate."""
        if not self._played:
            return
        ticks = packet.dts if packet.dts is not None else packet.pts
        if ticks is None or packet.time_base is None:
            return
        time_s = float(ticks * packet.time_base)
        now_s = time.monotonic()
        if self._origin is None:
            self._origin = (now_s, time_s)
        self._sleep(max(self._origin[0] + time_s - self._origin[1] - now_s, 0.0))
