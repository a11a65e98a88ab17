"""Leaps of a stream's clock, closed by the rule of the ffmpeg program.

Where recordings are joined, or a recorder's clock is set, timestamps leap. In formats whose clock
may begin anew (MPEG-TS, MPEG-PS, Ogg) ffmpeg expects each packet where the one before it ends. A
decoding time more than 10 s away (`-dts_delta_threshold`), or more than 0.1 s before that of the
packet before, is a leap: this packet, and all after it, move so that nothing is missing.

In other formats a gap is a gap, and ffmpeg believes up to 30 hours. Here it is up to one hour, in
all formats: a longer one is closed alike, since a few flipped bits would otherwise make thousands
of clips of one frame. A presentation time that far from its decoding time is left out.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from r2rt.video.container import exact

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["LEAP_BACK_S", "LEAP_S", "LONGEST_GAP_S", "LeapCloser", "format_flags", "leap_closer"]

LEAP_S = Fraction(10)
LEAP_BACK_S = Fraction(1, 10)
LONGEST_GAP_S = Fraction(3600)
_TS_DISCONT = 0x200  # a bit of a demuxer's flags, as in libavformat/avformat.h


def leap_closer(container: InputContainer, stream: VideoStream | AudioStream) -> LeapCloser:
    """Return what closes the leaps of a stream, for one pass over its packets."""
    time_base = exact(stream.time_base) or Fraction(1, 90_000)
    # Sound has no such rates; its packets say how long they last.
    rates = (getattr(stream, name, None) for name in ("average_rate", "guessed_rate"))
    rate = next(filter(None, map(exact, rates)), None)
    return LeapCloser(
        time_base,
        discontinuous=bool(format_flags(container) & _TS_DISCONT),
        usual_duration=max(1, round(1 / rate / time_base)) if rate else 1,
    )


def format_flags(container: InputContainer) -> int:
    """Return the flags of a container's format, as a number in every version of PyAV."""
    flags = container.format.flags
    return int(getattr(flags, "value", flags))


class LeapCloser:
    """Moves the timestamps of a stream's packets, given in decoding order.

    Attributes:
        leaps: how many leaps were closed.
        moved: by how much later timestamps are moved now, in units of the time base.
        closed: the sum of all leaps, forward or back, in units of the time base.

    Args:
        time_base: seconds of one unit of a timestamp.
        discontinuous: the format's clock may begin anew.
        usual_duration: how long a packet lasts that does not say so.
    """

    def __init__(self, time_base: Fraction, *, discontinuous: bool, usual_duration: int) -> None:
        self.leaps = 0
        self.moved = 0
        self.closed = 0
        self._longest = int(LONGEST_GAP_S / time_base)
        self._leap = int(LEAP_S / time_base) if discontinuous else self._longest
        self._back = int(LEAP_BACK_S / time_base) if discontinuous else self._longest
        self._usual = usual_duration
        self._last: int | None = None
        self._next = 0

    def place(
        self, pts: int | None, dts: int | None, duration: int
    ) -> tuple[int | None, int | None]:
        """Return the presentation and decoding time of the next packet; None where unknown."""
        lasts = duration or self._usual
        if dts is None:
            self._next += lasts
            return (None if pts is None else pts + self.moved), None
        placed = dts + self.moved
        if self._last is not None:
            away = placed - self._next
            if abs(away) > self._leap or placed + self._back < self._last:
                self.leaps += 1
                self.closed += abs(away)
                self.moved -= away
                placed = self._next
        self._last = placed
        self._next = placed + lasts
        if pts is None or abs(pts - dts) > self._longest:
            return None, placed
        return pts + self.moved, placed
