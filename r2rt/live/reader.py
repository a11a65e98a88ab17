"""The thread that keeps a source open, reads its packets, and opens it again when it is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

import av.error

from r2rt.errors import NoFramesError, SourceLostError
from r2rt.live.backlog import Backlog, End
from r2rt.live.counts import ReaderCounts
from r2rt.live.decoding import Decoded, PacketDecoder
from r2rt.live.events import Retrying
from r2rt.live.segments import ReadEnoughError, Segments
from r2rt.live.source import Connection, LiveSource, LostError
from r2rt.retry import wait_s
from r2rt.video.container import packets_of
from r2rt.video.demux import stores_no_timestamps

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["Reader"]

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
# A connection that lived so long was a good one: the next wait is a short one again.
_GOOD_S = 30.0
_ERRORS_IN_A_ROW = 64
# Formats whose timestamps are made up by FFmpeg from a rate that nobody promised.
_FORMATS_WITHOUT_TIME = frozenset(("mpjpeg",))
# A recording may end so much before the end that its container promises.
_MOST_LACKING_S = 5.0
# What lies farther back is another broadcast, not one that is read again.
_READ_AGAIN_S = 60.0


class _StoppedError(Exception):
    """Reading was stopped from outside."""


class Reader:
    """Reads a source in a thread of its own and puts clips into a backlog.

    Attributes:
        counts: what has been read so far.

    Args:
        source: what to read.
        backlog: where clips and notices go; `End` comes last, with the error if there was one.
        fps: clips a second of the model.
        image_size: side of the model's frames.
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
        self._clip_s = float(1 / fps)
        self._newest_s = float("-inf")
        self._stopped = threading.Event()
        self._segments = Segments(
            source,
            backlog,
            self.counts,
            fps=fps,
            image_size=image_size,
            window_s=window_s,
            duration_s=duration_s,
            stopped=self._stopped.is_set,
        )
        self._thread = threading.Thread(target=self._run, name="r2rt-live", daemon=True)

    @property
    def time_s(self) -> float:
        """How far the stream has come, in seconds."""
        return self._segments.time_s

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

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._keep_reading()
        except (_StoppedError, ReadEnoughError):
            pass
        except BaseException as raised:
            error = raised
        try:
            self._segments.end(is_gap=False)
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
                connection = self._source.open(self._stopped, first=not self._segments.has_begun)
            except LostError as lost:
                reason = str(lost)
            else:
                if self._is_over(connection):
                    connection.close()
                    return
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
            self._segments.interrupt(reason)
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

    def _is_over(self, connection: Connection) -> bool:
        """Return whether a broadcast that was seen has become a recording, which would begin anew.

        A recording that breaks off is not opened again.
        """
        return (
            self._source.kind == "network"
            and self._segments.has_begun
            and self._ends_by_itself(connection)
        )

    def _check_seen(self) -> None:
        if not self.counts.frames and not self._stopped.is_set():
            raise NoFramesError(f"{self._source.name}: not one frame could be decoded")

    def _wait(self, reason: str, attempt: int, waits: int) -> None:
        """Wait before the next try, longer each time, never in step with others who wait."""
        pause_s = wait_s(waits + 1, _FIRST_WAIT_S, _LONGEST_WAIT_S)
        self._backlog.put(
            Retrying(
                reason=reason,
                attempt=attempt,
                attempts=self._source.options.reconnect,
                wait_s=pause_s,
                at=time.time(),
            )
        )
        until_s = time.monotonic() + pause_s
        while (rest_s := until_s - time.monotonic()) > 0 and not self._stopped.is_set():
            self._stopped.wait(min(rest_s, 0.2))
            self._segments.end_if_silent()

    def _read(self, connection: Connection) -> str | None:
        """Read a connection to its end; return why it was lost, None where the source has ended."""
        container, stream = connection.container, connection.stream
        if container.format.name in _FORMATS_WITHOUT_TIME or (
            # What comes through a pipe may be a recording, which comes faster than it was taken.
            self._source.is_live and stores_no_timestamps(container)
        ):
            self._segments.time_by_arrival()
        decoder = PacketDecoder(
            connection,
            self._source,
            self.counts,
            clip_s=self._clip_s,
            sleep=self._stopped.wait,
        )
        errors, end_pts, silent_s = 0, 0, 0.0
        # Opened again, a playlist begins some segments before its newest one.
        was_read = container.format.name == "hls"
        while errors < _ERRORS_IN_A_ROW:
            # A generator that raised is over: damage is read past with a new one.
            try:
                asked_s = time.monotonic()
                for packet in packets_of(container, stream):
                    waited_s = time.monotonic() - asked_s
                    if self._stopped.is_set():
                        raise _StoppedError
                    if packet.size:
                        errors, end_pts = 0, max(end_pts, packet.pts or 0)
                        was_read = self._was_read(packet) and was_read
                        if not was_read:
                            taken = decoder.take(packet, waited_s=waited_s)
                            self._place(decoder, taken, connection)
                        asked_s = time.monotonic()
                silent_s = time.monotonic() - asked_s
                self._place(decoder, decoder.drain(), connection)
            except av.error.InvalidDataError:
                self.counts.packets_lost += 1
                errors += 1
            except av.error.ExitError:
                self._place(decoder, decoder.drain(), connection)
                return self._why_lost("it said nothing in time", connection)
            except (av.error.FFmpegError, OSError) as error:
                if self._source.kind in ("file", "pipe"):
                    # Opened again, it would begin anew or not at all: what is left is read.
                    self.counts.packets_lost += 1
                    errors += 1
                    continue
                self._place(decoder, decoder.drain(), connection)
                return self._why_lost(str(error.strerror or type(error).__name__), connection)
            else:
                break
        if self._stopped.is_set():
            raise _StoppedError
        if self._source.kind == "network" and self._ends_by_itself(connection):
            # FFmpeg takes a connection that breaks off for the end.
            lacking_s = _lacking_s(stream, end_pts)
            if lacking_s > _MOST_LACKING_S:
                return self._why_lost(f"it ended {lacking_s:.0f} s early", connection)
        if connection.was_replaced:
            return "another file has taken its place"
        if self._source.kind == "network" and not self._ends_by_itself(connection):
            # In a segment of a playlist, FFmpeg takes silence for the end.
            timeout_s = self._source.network_timeout_s
            was_silent = timeout_s is not None and silent_s >= timeout_s
            return "it said nothing in time" if was_silent else "the stream ended"
        if self._source.kind == "device":
            return "the device ended"
        return None

    def _was_read(self, packet: Packet[VideoStream]) -> bool:
        """Return whether a packet lies a little before the newest one; if not, it is that."""
        if packet.pts is None or packet.time_base is None:
            return False
        time_s = float(packet.pts * packet.time_base)
        was_read = 0 <= self._newest_s - time_s <= _READ_AGAIN_S
        if not was_read:
            self._newest_s = time_s
        return was_read

    def _why_lost(self, reason: str, connection: Connection) -> str:
        if self._stopped.is_set():
            raise _StoppedError
        if self._source.kind == "network" and self._ends_by_itself(connection):
            raise SourceLostError(
                f"{self._source.name}: lost ({reason}); a recording, which would begin anew: "
                "`r2rt ground` answers about it as a file"
            )
        return reason

    def _ends_by_itself(self, connection: Connection) -> bool:
        # What RTSP serves is a broadcast, even where a file is behind it.
        return connection.is_finite and connection.container.format.name != "rtsp"

    def _place(
        self, decoder: PacketDecoder, frames: Iterable[Decoded], connection: Connection
    ) -> None:
        for decoded in frames:
            self._segments.add(decoded, connection, decoder.pace.lead_s)


def _lacking_s(stream: VideoStream, end_pts: int) -> float:
    """Return how much of a stream is not there after a packet, by the length that it promises."""
    if stream.duration is None or stream.time_base is None:
        return 0.0
    return float(((stream.start_time or 0) + stream.duration - end_pts) * stream.time_base)
