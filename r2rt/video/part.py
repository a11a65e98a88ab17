"""The part of a source that is read, as if it had been cut out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from r2rt.errors import QueryError
from r2rt.video.clock import ClipClock

__all__ = ["Part", "PartSpan"]


@dataclass(frozen=True, kw_only=True)
class PartSpan:
    """A part in timestamps of a stream.

    Attributes:
        clock: the clips' clock, whose origin is where the part begins.
        begin_pts: frames before it are left out; None where the part begins with the source, so
            that frames before the container's start are not.
        end_pts: frames from here on are left out; None reads to the end.
    """

    clock: ClipClock
    begin_pts: int | None
    end_pts: int | None

    def stop_pts(self, source_end_pts: int) -> int:
        """Return where the part ends in a source that ends at `source_end_pts`."""
        return source_end_pts if self.end_pts is None else min(self.end_pts, source_end_pts)


@dataclass(frozen=True, kw_only=True)
class Part:
    """The span [start_s, end_s) of a source's own clock; None leaves that side uncut."""

    start_s: Fraction | None = None
    end_s: Fraction | None = None

    @classmethod
    def from_seconds(cls, start_s: float | None, end_s: float | None) -> Part:
        """Check and return a part.

        Raises:
            QueryError: negative, not a number, or an end that does not come after the start.
        """
        for name, value in (("start", start_s), ("end", end_s)):
            if value is not None and (not math.isfinite(value) or value < 0):
                raise QueryError(f"{name} {value} s; expected 0 or more seconds")
        if end_s is not None and end_s <= (start_s or 0):
            raise QueryError(f"end {end_s} s; expected more than the start, {start_s or 0} s")
        return cls(
            start_s=None if start_s is None else _microseconds(start_s),
            end_s=None if end_s is None else _microseconds(end_s),
        )

    def span(self, *, fps: Fraction, time_base: Fraction, source_start_pts: int) -> PartSpan:
        """Return the part in timestamps of a stream whose clock's zero is `source_start_pts`."""
        whole = ClipClock(fps=fps, time_base=time_base, origin_pts=source_start_pts)
        begin = None if self.start_s is None else whole.pts_of(self.start_s)
        origin = source_start_pts if begin is None else begin
        return PartSpan(
            clock=ClipClock(fps=fps, time_base=time_base, origin_pts=origin),
            begin_pts=begin,
            end_pts=None if self.end_s is None else whole.pts_of(self.end_s),
        )


def _microseconds(time_s: float) -> Fraction:
    return Fraction(round(Fraction(time_s) * 1_000_000), 1_000_000)
