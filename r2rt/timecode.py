"""Times as people write and read them."""

from __future__ import annotations

import re

from r2rt.errors import QueryError

__all__ = ["format_clock", "parse_time"]

_CLOCK = re.compile(r"(?:(?P<h>\d+):)?(?P<m>\d+):(?P<s>\d+(?:\.\d*)?)")
_UNITS = re.compile(r"(?P<value>\d+(?:\.\d*)?|\.\d+)(?P<unit>ms|s|m|h)?")
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


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
