"""Times as people and editing programs write and read them: clock time, and SMPTE timecode.

Timecode numbers frames: `01:00:00:12` is the thirteenth frame of the first second of hour 1. It
counts a whole number of frames a second, 30 for a rate of 29.97, so it would fall behind the clock
by 3.6 s an hour. Drop-frame timecode (SMPTE ST 12-1; a semicolon before the frames) therefore skips
the first two numbers (four at 59.94) of every minute that is not a multiple of ten. It skips
numbers only; no frame is dropped.
"""

from __future__ import annotations

import re
from fractions import Fraction

from r2rt.errors import QueryError

__all__ = [
    "drops_frames",
    "format_clock",
    "format_clock_ms",
    "format_timecode",
    "parse_time",
    "parse_timecode",
]

_CLOCK = re.compile(r"(?:(?P<h>\d{1,9}):)?(?P<m>\d{1,9}):(?P<s>\d{1,9}(?:\.\d*)?)")
_UNITS = re.compile(r"(?P<value>\d{1,18}(?:\.\d*)?|\.\d+)(?P<unit>ms|s|m|h)?")
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

_TIMECODE = re.compile(r"(\d{1,2}):(\d{2}):(\d{2})([:;.,])(\d{2,3})")
# Numbers that drop-frame timecode skips at the start of a minute.
_DROPPED = {Fraction(30000, 1001): 2, Fraction(60000, 1001): 4}


def parse_time(text: str) -> float:
    """Return seconds from `90`, `1:15.5`, `00:01:15.500`, `10s`, `5m`, `250ms` or `1h`.

    Raises:
        QueryError: the text is none of these.
    """
    text = text.strip()
    if match := _CLOCK.fullmatch(text):
        hours, minutes, seconds = match["h"], int(match["m"]), float(match["s"])
        if seconds < 60 and (hours is None or minutes < 60):
            return int(hours or 0) * 3600 + minutes * 60 + seconds
    elif match := _UNITS.fullmatch(text):
        return float(match["value"]) * _SECONDS[match["unit"]]
    raise QueryError(f"{text!r} is no time; write 90, 1:15.5, 00:01:15.500, 10s or 5m")


def format_clock(seconds: float) -> str:
    """Return `1:15.5` or `1:01:15.5`: clock time for people, to a tenth of a second."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    clock = f"{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{minutes:02d}:{clock}" if hours else f"{minutes}:{clock}"


def format_clock_ms(seconds: float, *, mark: str = ".") -> str:
    """Return `00:01:15.500`: clock time of fixed form, to a thousandth of a second.

    Args:
        seconds: 0 or more.
        mark: separator before the thousandths.
    """
    seconds_whole, thousandths = divmod(round(seconds * 1000), 1000)
    minutes, rest = divmod(seconds_whole, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}{mark}{thousandths:03d}"


def drops_frames(rate: Fraction) -> bool:
    """Return whether there is drop-frame timecode at this rate: at 29.97 and 59.94 alone."""
    return rate in _DROPPED


def format_timecode(frame: int, rate: Fraction, *, drop: bool) -> str:
    """Return the timecode of a frame: `01:00:00:00`, or `01:00:00;00` in drop-frame timecode.

    Args:
        frame: number of the frame, 0 or more; timecode starts again after 24 hours.
        rate: frames a second.
        drop: whether to count in drop-frame timecode.

    Raises:
        ValueError: the frame is negative, or drop-frame is asked for where there is none.
    """
    if frame < 0:
        raise ValueError(f"frame {frame}; expected 0 or more")
    count = _count(rate)
    dropped = _dropped(rate, drop=drop)
    per_ten_minutes = count * 600 - 9 * dropped
    frame %= 144 * per_ten_minutes
    tens, rest = divmod(frame, per_ten_minutes)
    frame += 9 * dropped * tens
    if rest >= dropped:
        frame += dropped * ((rest - dropped) // (count * 60 - dropped))
    seconds, frames = divmod(frame, count)
    minutes, seconds = divmod(seconds, 60)
    mark = ";" if drop else ":"
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}{mark}{frames:02d}"


def parse_timecode(text: str, rate: Fraction) -> tuple[int, bool]:
    """Return the frame number of a timecode, and whether it is drop-frame.

    Raises:
        QueryError: the text is no timecode, or no frame has it at this rate.
    """
    match = _TIMECODE.fullmatch(text.strip())
    if match is None:
        raise QueryError(f"{text!r} is no timecode; write 01:00:00:00, or 01:00:00;00")
    hours, minutes, seconds, frames = (int(match[group]) for group in (1, 2, 3, 5))
    drop = match[4] != ":"
    count = _count(rate)
    if minutes > 59 or seconds > 59 or frames >= count or (drop and not drops_frames(rate)):
        raise QueryError(f"{text!r} is no timecode at {float(rate):.6g} frames a second")
    dropped = _dropped(rate, drop=drop)
    if frames < dropped and seconds == 0 and minutes % 10:
        raise QueryError(f"{text!r}: drop-frame timecode skips this number")
    minutes += 60 * hours
    number = (minutes * 60 + seconds) * count + frames
    return number - dropped * (minutes - minutes // 10), drop


def _count(rate: Fraction) -> int:
    """Return how many frames timecode counts a second: the rate, rounded."""
    return max(1, round(rate))


def _dropped(rate: Fraction, *, drop: bool) -> int:
    if not drop:
        return 0
    if rate not in _DROPPED:
        raise ValueError(f"no drop-frame timecode at {rate} frames a second")
    return _DROPPED[rate]
