"""What the kinds of subtitles share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from r2rt.outputs.answers import Found

__all__ = ["cue_times_ms"]


def cue_times_ms(found: Sequence[Found]) -> Iterator[tuple[int, int, Found]]:
    """Yield start and end in whole milliseconds, 0 or more, at least one apart, and the moment."""
    for item in found:
        start = max(0, round(item.moment.start_s * 1000))
        yield start, max(round(item.moment.end_s * 1000), start + 1), item
