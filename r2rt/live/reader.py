"""The thread that keeps a source open, decodes it, and picks the picture of each clip."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import av.error

from r2rt.errors import NoFramesError, SourceLostError
from r2rt.live.backlog import Backlog, ClipItem, End, SegmentEnd
from r2rt.live.clock import LiveClock, Placed
from r2rt.live.events import Reconnected, Retrying
from r2rt.live.pace import Pace
from r2rt.live.source import Connection, LiveSource, LostError
from r2rt.video import ClipClock, ClipSelector, FramePreparer

if TYPE_CHECKING:
    from av import VideoFrame
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["Reader", "ReaderCounts"]

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
# A connection that lived so long was a good one: the next wait is a short one again.
_GOOD_S = 30.0
# Packets to wait for a keyframe: streams that refresh bit by bit have none.
_PACKETS_WITHOUT_KEYFRAME = 300
_ERRORS_IN_A_ROW = 64
_UNTIMED_KEPT = 16
# Pictures come out of order and in bursts: less is not behind, however short the clips are.
_LATE_S = 1.0
# Timestamps farther apart say nothing about the pace at which they come.
_LEAP_S = 60.0
# Arrival times of packets whose pictures are still in the decoder.
_ARRIVALS_KEPT = 512
# Formats whose timestamps are made up by FFmpeg from a rate that nobody promised.
_FORMATS_WITHOUT_TIME = frozenset(("mpjpeg",))


@dataclass(kw_only=True)
class ReaderCounts:
    """Counts that grow while a source is read; see `WatchSummary` for their meaning."""

    frames: int = 0
    packets_lost: int = 0
    frames_skipped: int = 0
    reconnects: int = 0
    gaps_s: float = 0.0


class _Held(NamedTuple):
    frame: VideoFrame
    arrival_s: float
    sample_aspect_ratio: Fraction | None


class _EndedError(Exception):
    """Enough was read."""


class Reader:
    """Reads a source in a thread of its own and puts clips into a backlog.

    Attributes:
        counts: what has been read so far.
        pace: how timely the connection's packets come.

    Args:
        source: what to read.
        backlog: where clips and notices go; `End` comes last, with the error if there was one.
        fps: clips a second of the model.
        image_size: side of the model's pictures.
        window_s: a leap of the timestamps up to so long is believed.
        duration_s: where to end on the stream's clock; None reads on.
    """

    def __init__(
        self,
        source: LiveSource,
        backlog: Backlog,
        *,
        fps: Fraction,
        image_size: int,
        window_s: float,
        duration_s: float | None,
    ) -> None:
        self.counts = ReaderCounts()
        self._source = source
        self._backlog = backlog
        self._fps = fps
        self._clip_s = float(1 / fps)
        self._bridge_s = 2 * self._clip_s
        self._trusted_s = window_s
        self._duration_s = duration_s
        self._prepare = FramePreparer(image_size)
        self._clock = self._new_clock(by_arrival=source.options.clock == "arrival")
        self._selector: ClipSelector[_Held] | None = None
        self._clip_clock: ClipClock | None = None
        self._segment = -1
        self._place: Placed | None = None
        self._end_pts = 0
        self.pace = Pace()
        self._lost_reason: str | None = None
        self._jitter = random.Random()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="r2rt-live", daemon=True)

    @property
    def time_s(self) -> float:
        """How far the stream has come, in seconds."""
        if self._duration_s is None:
            return self._clock.time_s
        return min(self._clock.time_s, self._duration_s)

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it does when the source says something, or times out."""
        self._stopped.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end and return whether it did."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _new_clock(self, *, by_arrival: bool) -> LiveClock:
        return LiveClock(
            bridge_s=self._bridge_s,
            trusted_s=self._trusted_s,
            live=self._source.is_live,
            by_arrival=by_arrival,
        )

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._keep_reading()
        except _EndedError:
            pass
        except BaseException as raised:
            error = raised
        try:
            self._end_segment(is_gap=False)
        except BaseException as raised:
            error = error or raised
        self._backlog.put(End(error))

    def _keep_reading(self) -> None:
        """Read until the source has ended for good, opening it again as often as it takes."""
        failures = 0
        waits = 0
        reason = ""
        while not self._stopped.is_set():
            try:
                connection = self._source.open(self._stopped, first=self._place is None)
            except LostError as lost:
                reason = str(lost)
            else:
                before, began_s = self.counts.frames, time.monotonic()
                try:
                    lost_reason = self._read(connection)
                finally:
                    connection.close()
                if lost_reason is None:
                    self._check_seen()
                    return
                reason = lost_reason
                failures = failures if self.counts.frames == before else 0
                waits = 0 if time.monotonic() - began_s > _GOOD_S else waits
            if self._stopped.is_set():
                return
            self._clock.interrupt()
            self._lost_reason = self._lost_reason or reason
            limit = self._source.options.reconnect
            if limit is not None and failures >= limit:
                tries = f" after {limit} tries" if limit else ""
                raise SourceLostError(
                    f"{self._source.name}: lost for good{tries} ({reason}); check that it is on "
                    "and can be reached, or raise --reconnect"
                )
            failures += 1
            self._wait(reason, failures, waits)
            waits += 1

    def _check_seen(self) -> None:
        if not self.counts.frames and not self._stopped.is_set():
            raise NoFramesError(f"{self._source.name}: not one picture could be decoded")

    def _wait(self, reason: str, attempt: int, waits: int) -> None:
        """Wait before the next try, longer each time, never in step with others who wait."""
        longest = min(_FIRST_WAIT_S * 2**waits, _LONGEST_WAIT_S)
        wait_s = longest * self._jitter.uniform(0.5, 1.0)
        self._backlog.put(
            Retrying(
                reason=reason,
                attempt=attempt,
                attempts=self._source.options.reconnect,
                wait_s=wait_s,
                at=time.time(),
            )
        )
        until_s = time.monotonic() + wait_s
        while (rest_s := until_s - time.monotonic()) > 0 and not self._stopped.is_set():
            self._stopped.wait(min(rest_s, 0.2))
            # What was on is told to be over, however long this takes.
            if self._clock.silent_s(time.monotonic()) > self._bridge_s:
                self._end_segment(is_gap=True)

    def _read(self, connection: Connection) -> str | None:
        """Read a connection to its end; return why it was lost, None where the source has ended."""
        container, stream = connection.container, connection.stream
        self.pace = Pace()
        if self._place is None and container.format.name in _FORMATS_WITHOUT_TIME:
            auto = self._source.options.clock == "auto"
            self._clock = self._new_clock(
                by_arrival=auto or self._source.options.clock == "arrival"
            )
        decoding = _Decoding(self, connection)
        errors = 0
        while errors < _ERRORS_IN_A_ROW:
            # A generator that raised is over: damage is read past with a new one.
            try:
                for packet in container.demux(stream):
                    if self._stopped.is_set():
                        raise _EndedError
                    if packet.size:
                        errors = 0
                        decoding.take(packet)
                decoding.drain()
            except av.error.InvalidDataError:
                self.counts.packets_lost += 1
                errors += 1
            except av.error.ExitError:
                decoding.drain()
                return self._why_lost("it said nothing in time")
            except (av.error.FFmpegError, OSError) as error:
                if self._source.kind in ("file", "pipe"):
                    # Opened again, it would begin anew or not at all: what is left is read.
                    self.counts.packets_lost += 1
                    errors += 1
                    continue
                decoding.drain()
                return self._why_lost(str(error.strerror or type(error).__name__))
            else:
                break
        if self._stopped.is_set():
            raise _EndedError
        if connection.was_replaced:
            return "another file has taken its place"
        if self._source.kind == "network" and not self._ends_by_itself(connection):
            return "the stream ended"
        if self._source.kind == "device":
            return "the device ended"
        return None

    def _why_lost(self, reason: str) -> str:
        if self._stopped.is_set():
            raise _EndedError
        return reason

    def _ends_by_itself(self, connection: Connection) -> bool:
        # What RTSP serves is a broadcast, even where a file is behind it.
        return connection.is_finite and connection.container.format.name != "rtsp"

    def take_frame(
        self,
        frame: VideoFrame,
        pts: int | None,
        arrival_s: float,
        connection: Connection,
    ) -> None:
        """Give a decoded picture its place, and hand on the one before it if that is chosen."""
        self.counts.frames += 1
        time_base = Fraction(frame.time_base or connection.stream.time_base or Fraction(1, 90_000))
        placed = self._clock.place(
            pts,
            frame.duration or 0,
            time_base,
            arrival_s,
            origin_pts=self._origin(connection, time_base),
        )
        if placed.is_new or self._selector is None:
            self._end_segment(is_gap=True)
            self._begin_segment(placed)
        if placed.leapt:
            self._tell_gap(placed)
        self._lost_reason = None
        self._place = placed
        assert self._selector is not None
        if self._duration_s is not None and placed.time_s >= self._duration_s:
            assert self._clip_clock is not None
            rest_s = Fraction(self._duration_s) - Fraction(placed.segment_s)
            self._end_pts = self._clip_clock.pts_of(rest_s)
            raise _EndedError
        self._end_pts = self._clock.end_pts
        held = _Held(frame, arrival_s, connection.stream.sample_aspect_ratio)
        chosen = self._selector.push(held, placed.pts, placed.duration)
        if chosen is not None:
            self._hand_on(chosen.frame, chosen.count, placed.pts)

    def _origin(self, connection: Connection, time_base: Fraction) -> int | None:
        """Return where a file's clock has its zero; a live source's is its first picture."""
        start_us = connection.container.start_time
        if self._source.is_live or start_us is None:
            return None
        return round(Fraction(start_us, 1_000_000) / time_base)

    def _tell_gap(self, placed: Placed) -> None:
        if self._lost_reason is not None:
            self.counts.reconnects += 1
        self.counts.gaps_s += placed.gap_s
        self._backlog.put(
            Reconnected(
                reason=self._lost_reason or "its timestamps leapt",
                gap_s=placed.gap_s,
                resumed_s=placed.time_s,
                new_window=placed.is_new,
                at=time.time(),
            )
        )

    def _begin_segment(self, placed: Placed) -> None:
        self._segment += 1
        self._clip_clock = ClipClock(
            fps=self._fps, time_base=placed.time_base, origin_pts=placed.origin_pts
        )
        self._selector = ClipSelector(self._clip_clock)

    def _end_segment(self, *, is_gap: bool) -> None:
        """Hand on the last picture of a segment for the clips that it still stands for."""
        if self._selector is None:
            return
        rest = self._selector.finish(self._end_pts)
        self._selector = None
        if rest is not None:
            self._hand_on(rest.frame, rest.count, self._end_pts)
        assert self._clip_clock is not None
        edge_s = self._clip_clock.time_s(self._end_pts)
        self._backlog.put(SegmentEnd(edge_s=edge_s, is_gap=is_gap))

    def _hand_on(self, held: _Held, count: int, edge_pts: int) -> None:
        assert self._clip_clock is not None
        assert self._place is not None
        pixels = self._prepare(held.frame, sample_aspect_ratio=held.sample_aspect_ratio)
        waits = self._source.options.no_drop or (
            self._source.may_wait and self.pace.lead_s > self._clip_s
        )
        if waits:
            self._backlog.wait_for_room(self._stopped.is_set)
        self._backlog.put(
            ClipItem(
                pixels=pixels,
                count=count,
                segment=self._segment,
                segment_s=self._place.segment_s,
                edge_s=self._clip_clock.time_s(edge_pts),
                arrival_s=held.arrival_s,
                is_live=not waits,
            )
        )

    @property
    def source(self) -> LiveSource:
        """What is read."""
        return self._source

    @property
    def clip_s(self) -> float:
        """Seconds of a clip."""
        return self._clip_s

    def sleep(self, seconds: float) -> None:
        """Sleep unless told to stop."""
        if seconds > 0:
            self._stopped.wait(seconds)


class _Decoding:
    """Packets of one connection in, pictures with their arrival times to the reader."""

    def __init__(self, reader: Reader, connection: Connection) -> None:
        self._reader = reader
        self._connection = connection
        self._context = connection.stream.codec_context
        self._arrivals: dict[int, float] = {}
        self._untimed: list[tuple[VideoFrame, float]] = []
        self._timed = False
        self._began = False
        self._unbegun = 0
        self._origin: tuple[float, float] | None = None
        self._skipping = "DEFAULT"
        self._last_time_s = float("-inf")
        self._may_skip = not reader.source.may_wait and not reader.source.options.no_drop

    def take(self, packet: Packet[VideoStream]) -> None:
        """Decode a packet, at its time if a file is played."""
        self._sleep_until_due(packet)
        arrival_s = time.monotonic()
        self._see_pace(packet, arrival_s)
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
            self._reader.counts.packets_lost += 1
            return
        if not frames and self._skipping == "NONREF":
            self._reader.counts.frames_skipped += 1
        for frame in frames:
            self._pass_on(frame, arrival_s)
        if self._skipping == "KEYS":
            # What would put this picture in order with those that are skipped never comes.
            self.drain()
            self._context.flush_buffers()

    def drain(self) -> None:
        """Take what the decoder still holds."""
        try:
            frames = self._context.decode(None)
        except av.error.FFmpegError:
            return
        for frame in frames:
            self._pass_on(frame, time.monotonic())

    def _pass_on(self, frame: VideoFrame, arrival_s: float) -> None:
        pts = frame.pts if frame.pts is not None else frame.dts
        if pts is None and not self._timed and len(self._untimed) < _UNTIMED_KEPT:
            # RTP tells the time of the second picture: the first one came just before it.
            self._untimed.append((frame, arrival_s))
            return
        if not self._timed:
            self._timed = True
            step = frame.duration or 0
            for steps, (early, early_arrival_s) in zip(
                range(len(self._untimed), 0, -1), self._untimed, strict=True
            ):
                early_pts = None if pts is None else pts - steps * step
                self._reader.take_frame(early, early_pts, early_arrival_s, self._connection)
            self._untimed = []
        arrival_s = self._arrivals.pop(pts, arrival_s) if pts is not None else arrival_s
        self._reader.take_frame(frame, pts, arrival_s, self._connection)

    def _see_pace(self, packet: Packet[VideoStream], arrival_s: float) -> None:
        """Tell how timely packets come; their decoding order is free of disorder."""
        ticks = packet.dts if packet.dts is not None else packet.pts
        if ticks is None or packet.time_base is None:
            return
        time_s = float(ticks * packet.time_base)
        if not 0 <= time_s - self._last_time_s <= _LEAP_S:
            self._reader.pace = Pace()
        self._last_time_s = time_s
        self._reader.pace.see(arrival_s, time_s)

    def _may_begin(self, packet: Packet[VideoStream]) -> bool:
        """Return whether decoding can begin here: pictures before a keyframe are grey mush."""
        self._unbegun += 1
        self._began = packet.is_keyframe or self._unbegun > _PACKETS_WITHOUT_KEYFRAME
        return self._began

    def _keep_up(self, packet: Packet[VideoStream]) -> bool:
        """Skip what decoding can do without while it is behind; return whether to decode this."""
        lag_s, late_s = self._reader.pace.lag_s, max(self._reader.clip_s, _LATE_S)
        if self._skipping == "KEYS":
            if not packet.is_keyframe:
                self._reader.counts.frames_skipped += 1
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
        if self._reader.source.kind != "file":
            return
        ticks = packet.dts if packet.dts is not None else packet.pts
        if ticks is None or packet.time_base is None:
            return
        time_s = float(ticks * packet.time_base)
        now_s = time.monotonic()
        if self._origin is None:
            self._origin = (now_s, time_s)
        self._reader.sleep(self._origin[0] + time_s - self._origin[1] - now_s)
