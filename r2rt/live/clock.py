"""The clock of a live stream: timestamps that jump, wrap, are missing or begin anew.

The stream's own timestamps are believed as long as they go on. Where they do not (the source came
back with others, a leap back, a leap farther than a window), the clock goes on by arrival time. A
gap too long to be bridged by the frame before it begins a new segment: clips of one segment
follow each other without a gap, those of two do not.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["LiveClock", "Placed"]

# A step back of less is disorder among frames, not a leap of the clock.
_DISORDER_S = 1
# Timestamps are counted in so many bits: RTP, MPEG transport streams.
_WRAPS = (32, 33)


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A frame's place in its segment.

    Attributes:
        pts: when it is presented, in `time_base`, ascending within a segment but for disorder.
        duration: for how long, 0 if unknown.
        time_base: seconds of one unit; constant within a segment.
        origin_pts: where the segment begins.
        segment_s: where the segment begins on the stream's clock, in seconds.
        is_new: this frame begins a segment.
        gap_s: how much is missing before it; 0 where the clock went on undisturbed.
        leapt: the stream's timestamps did not go on here.
    """

    pts: int
    duration: int
    time_base: Fraction
    origin_pts: int
    segment_s: float
    is_new: bool
    gap_s: float
    leapt: bool

    @property
    def time_s(self) -> float:
        """When it is presented, in seconds on the stream's clock."""
        return self.segment_s + float((self.pts - self.origin_pts) * self.time_base)


class LiveClock:
    """Places frames in order of presentation; see the module.

    Args:
        bridge_s: a gap up to so long is bridged by the frame before it.
        trusted_s: a leap forward up to so long is believed.
        live: frames arrive as they are taken, so a leap that is not believed is measured by
            arrival; otherwise it is taken for a hole in a recording.
        by_arrival: frames' own timestamps mean nothing; they are presented when they arrive.
    """

    def __init__(
        self, *, bridge_s: float, trusted_s: float, live: bool = True, by_arrival: bool = False
    ) -> None:
        self._bridge_s = bridge_s
        self._trusted_s = trusted_s
        self._live = live
        self._by_arrival = by_arrival
        self._broken = False
        self._last: Placed | None = None
        self._last_arrival_s = 0.0
        self._latest_s = 0.0
        self._step = 0
        self._shift = 0

    @property
    def time_s(self) -> float:
        """How far the stream has come, in seconds: the latest time of a frame."""
        return self._latest_s

    @property
    def end_pts(self) -> int:
        """Where the newest frame ends; one of unknown duration lasts as long as the last one."""
        assert self._last is not None
        return self._last.pts + (self._last.duration or self._step)

    def silent_s(self, now_s: float) -> float:
        """Return how long no frame has arrived."""
        return 0.0 if self._last is None else now_s - self._last_arrival_s

    def interrupt(self) -> None:
        """The source was lost: the timestamps of the next frame have nothing to do with these."""
        self._broken = True

    def place(
        self,
        pts: int | None,
        duration: int,
        time_base: Fraction,
        arrival_s: float,
        *,
        origin_pts: int | None = None,
    ) -> Placed:
        """Place the next frame.

        Args:
            pts: its own timestamp, if it has one.
            duration: for how long it is presented, 0 if unknown.
            time_base: seconds of one unit of both.
            arrival_s: when it arrived, on a clock that never leaps.
            origin_pts: where the clock's zero lies, in the frame's own timestamps, if this is the
                first frame; the frame itself if None. By arrival it is always the frame itself.
        """
        if self._by_arrival:
            pts, duration = round(Fraction(arrival_s) / time_base), 0
            origin_pts = None
        if self._last is None:
            first = pts or 0
            placed = Placed(
                pts=first,
                duration=duration,
                time_base=time_base,
                origin_pts=first if origin_pts is None else origin_pts,
                segment_s=0.0,
                is_new=True,
                gap_s=0.0,
                leapt=False,
            )
        else:
            placed = self._after(self._last, pts, duration, time_base, arrival_s)
        if self._last is not None and not placed.is_new and placed.pts > self._last.pts:
            self._step = placed.pts - self._last.pts
        if placed.is_new:
            self._step = 0
        self._broken = False
        self._last, self._last_arrival_s = placed, arrival_s
        self._latest_s = max(self._latest_s, placed.time_s)
        return placed

    def _after(
        self, last: Placed, pts: int | None, duration: int, time_base: Fraction, arrival_s: float
    ) -> Placed:
        waited_s = max(arrival_s - self._last_arrival_s, 0.0)
        if self._broken or time_base != last.time_base:
            return self._by_waiting(last, pts, duration, time_base, waited_s)
        if pts is None:
            return self._going_on(last, last.pts + self._usual_step(last), duration)
        mapped = pts + self._shift
        delta_s = float((mapped - last.pts) * time_base)
        if delta_s < -_DISORDER_S:
            for bits in _WRAPS:
                if 0 < (mapped + 2**bits - last.pts) * time_base <= self._trusted_s:
                    self._shift += 2**bits
                    return self._going_on(last, mapped + 2**bits, duration)
            return self._by_waiting(last, pts, duration, time_base, waited_s)
        if delta_s <= self._trusted_s:
            return self._going_on(last, mapped, duration)
        return self._by_waiting(last, pts, duration, time_base, waited_s if self._live else delta_s)

    def _going_on(
        self, last: Placed, pts: int, duration: int, *, gap_s: float = 0.0, leapt: bool = False
    ) -> Placed:
        return dataclasses.replace(
            last, pts=pts, duration=duration, is_new=False, gap_s=gap_s, leapt=leapt
        )

    def _by_waiting(
        self, last: Placed, pts: int | None, duration: int, time_base: Fraction, waited_s: float
    ) -> Placed:
        """Go on after a break, `waited_s` after the frame before it."""
        usual_s = float(self._usual_step(last) * last.time_base)
        step_s = max(waited_s, usual_s)
        gap_s = step_s - usual_s
        if time_base == last.time_base and step_s <= self._bridge_s:
            place = last.pts + round(Fraction(step_s) / time_base)
            if pts is not None:
                self._shift = place - pts
            return self._going_on(last, place, duration, gap_s=gap_s, leapt=True)
        self._shift = 0
        first = pts or 0
        return Placed(
            pts=first,
            duration=duration,
            time_base=time_base,
            origin_pts=first,
            segment_s=self._latest_s + step_s,
            is_new=True,
            gap_s=gap_s,
            leapt=True,
        )

    def _usual_step(self, last: Placed) -> int:
        return last.duration or self._step or 1
