"""From decoded frames to clips: each frame's place in time, and one frame for each clip."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from r2rt.live.backlog import Backlog, ClipItem, SegmentEnd
from r2rt.live.clock import LiveClock, Placed
from r2rt.live.counts import ReaderCounts
from r2rt.live.decoding import Decoded
from r2rt.live.events import Reconnected
from r2rt.live.source import Connection, LiveSource
from r2rt.video import ClipClock, ClipSelector, FramePreparer
from r2rt.video.container import exact, sample_aspect_ratio

if TYPE_CHECKING:
    from av import VideoFrame

__all__ = ["ReadEnoughError", "Segments"]


class ReadEnoughError(Exception):
    """The stream has reached the duration that was asked for."""


class _Held(NamedTuple):
    frame: VideoFrame
    arrival_s: float
    sample_aspect_ratio: Fraction | None


class Segments:
    """Puts frames on the stream's clock and the frame of each clip into the backlog.

    A segment is a part of the stream without a gap.

    Args:
        source: what is read.
        backlog: where clips, ends of segments and gaps go.
        counts: where frames and gaps are counted.
        fps: clips a second of the model.
        image_size: side of the model's frames.
        window_s: a leap of the timestamps up to so long is believed.
        duration_s: where to end on the stream's clock; None reads on.
        stopped: whether reading shall end.
    """

    def __init__(
        self,
        source: LiveSource,
        backlog: Backlog,
        counts: ReaderCounts,
        *,
        fps: Fraction,
        image_size: int,
        window_s: float,
        duration_s: float | None,
        stopped: Callable[[], bool],
    ) -> None:
        self._source = source
        self._backlog = backlog
        self._counts = counts
        self._fps = fps
        self._clip_s = float(1 / fps)
        self._bridge_s = 2 * self._clip_s
        self._trusted_s = window_s
        self._duration_s = duration_s
        self._stopped = stopped
        self._prepare = FramePreparer(image_size)
        self._clock = self._new_clock(by_arrival=source.options.clock == "arrival")
        self._selector: ClipSelector[_Held] | None = None
        self._clip_clock: ClipClock | None = None
        self._segment = -1
        self._place: Placed | None = None
        self._arrival_s = 0.0
        self._end_pts = 0
        self._lead_s = 0.0
        self._lost_reason: str | None = None

    @property
    def time_s(self) -> float:
        """How far the stream has come, in seconds."""
        if self._duration_s is None:
            return self._clock.time_s
        return min(self._clock.time_s, self._duration_s)

    @property
    def has_begun(self) -> bool:
        """Whether there was a frame."""
        return self._place is not None

    def time_by_arrival(self) -> None:
        """Take times of arrival, since the format has none that can be believed."""
        if not self.has_begun and self._source.options.clock in ("auto", "arrival"):
            self._clock = self._new_clock(by_arrival=True)

    def interrupt(self, reason: str) -> None:
        """Note that the connection was lost, and why: what comes next may follow after a gap."""
        self._clock.interrupt()
        self._lost_reason = self._lost_reason or reason

    def end_if_silent(self) -> None:
        """End the segment where nothing has come for so long that what comes next is another."""
        if self._clock.silent_s(time.monotonic()) > self._bridge_s:
            self.end(is_gap=True)

    def add(self, decoded: Decoded, connection: Connection, lead_s: float) -> None:
        """Give a decoded frame its place, and hand on the one before it if that is chosen.

        Args:
            decoded: the frame.
            connection: where it came from.
            lead_s: how far ahead of its own time the connection delivers.

        Raises:
            ReadEnoughError: the frame lies beyond the duration that was asked for.
        """
        self._lead_s = lead_s
        self._counts.frames += 1
        frame, stream = decoded.frame, connection.stream
        time_base = exact(frame.time_base) or exact(stream.time_base) or Fraction(1, 90_000)
        placed = self._clock.place(
            decoded.pts,
            frame.duration or 0,
            time_base,
            decoded.arrival_s,
            origin_pts=self._origin(connection, time_base),
        )
        if placed.is_new or self._selector is None:
            self.end(is_gap=True)
            self._begin(placed)
        if placed.leapt or self._lost_reason is not None:
            self._report_gap(placed)
        self._lost_reason = None
        self._place, self._arrival_s = placed, decoded.arrival_s
        assert self._selector is not None
        if self._duration_s is not None and placed.time_s >= self._duration_s:
            assert self._clip_clock is not None
            rest_s = Fraction(self._duration_s) - Fraction(placed.segment_s)
            self._end_pts = self._clip_clock.pts_of(rest_s)
            raise ReadEnoughError
        self._end_pts = self._clock.end_pts
        held = _Held(frame, decoded.arrival_s, sample_aspect_ratio(stream))
        chosen = self._selector.push(held, placed.pts, placed.duration)
        if chosen is not None:
            self._hand_on(chosen.frame, chosen.count, placed.pts)

    def end(self, *, is_gap: bool) -> None:
        """Hand on the last frame of a segment for the clips that it still stands for."""
        if self._selector is None:
            return
        rest = self._selector.finish(self._end_pts)
        self._selector = None
        if rest is not None:
            self._hand_on(rest.frame, rest.count, self._end_pts)
        assert self._clip_clock is not None
        self._backlog.put(
            SegmentEnd(
                edge_s=self._clip_clock.time_s(self._end_pts),
                edge_arrival_s=self._arrival_of(self._end_pts),
                is_gap=is_gap,
            )
        )

    def _begin(self, placed: Placed) -> None:
        self._segment += 1
        self._clip_clock = ClipClock(
            fps=self._fps, time_base=placed.time_base, origin_pts=placed.origin_pts
        )
        self._selector = ClipSelector(self._clip_clock)

    def _hand_on(self, held: _Held, count: int, edge_pts: int) -> None:
        assert self._clip_clock is not None
        assert self._place is not None
        pixels = self._prepare(held.frame, sample_aspect_ratio=held.sample_aspect_ratio)
        waits = self._source.options.no_drop or (
            self._source.may_wait and self._lead_s > self._clip_s
        )
        if waits:
            self._backlog.wait_for_room(self._stopped)
        self._backlog.put(
            ClipItem(
                pixels=pixels,
                count=count,
                segment=self._segment,
                segment_s=self._place.segment_s,
                edge_s=self._clip_clock.time_s(edge_pts),
                edge_arrival_s=self._arrival_of(edge_pts),
                arrival_s=held.arrival_s,
                is_live=not waits,
            )
        )

    def _arrival_of(self, edge_pts: int) -> float:
        """Return when a frame at the edge arrived or would have, by the newest frame's arrival."""
        assert self._place is not None
        ahead = (edge_pts - self._place.pts) * self._place.time_base
        return self._arrival_s + float(ahead)

    def _report_gap(self, placed: Placed) -> None:
        if self._lost_reason is not None and self.has_begun:
            self._counts.reconnects += 1
        self._counts.gaps_s += placed.gap_s
        self._backlog.put(
            Reconnected(
                reason=self._lost_reason or "its timestamps leapt",
                gap_s=placed.gap_s,
                resumed_s=placed.time_s,
                new_window=placed.is_new and placed.leapt,
                at=time.time(),
            )
        )

    def _origin(self, connection: Connection, time_base: Fraction) -> int | None:
        """Return where a file's clock has its zero; a live source's is its first frame."""
        start_us = connection.container.start_time
        if self._source.is_live or start_us is None:
            return None
        return round(Fraction(start_us, 1_000_000) / time_base)

    def _new_clock(self, *, by_arrival: bool) -> LiveClock:
        return LiveClock(
            bridge_s=self._bridge_s,
            trusted_s=self._trusted_s,
            live=self._source.is_live,
            by_arrival=by_arrival,
        )
