"""CMX 3600 edit decision list: the moments of a video one after another, from 01:00:00:00 on.

Events come in the order of the video, whichever query they answer. Query, score and exact seconds
are comments under each. Rates that timecode cannot count are counted at another: 120 frames a
second at 60, 12.5 at 25, one a minute at 25.
"""

from __future__ import annotations

import re
import unicodedata

from r2rt.outputs.answers import Answers
from r2rt.outputs.source import SourceFacts, editing_rate
from r2rt.printable import one_line
from r2rt.timecode import format_timecode, parse_timecode
from r2rt.video.remote import VideoPath

__all__ = ["reel_name", "render"]

_REEL_LETTERS = 8
# Frames a second: timecode has two digits for a frame. Higher rates are counted at 60 at most.
_MOST_FRAMES = 100
# Tracks of an event by channels of sound: video alone, with one, with two.
_TRACKS = ("V", "B", "AA/V")


def render(answers: Answers) -> str:
    """Return the edit list of a video's moments.

    Raises:
        R2rtError: the video cannot be read; see `Answers.source`.
    """
    source = _countable(answers.source)
    path = answers.path
    lines = [
        f"TITLE: {one_line(path.stem)}",
        f"FCM: {'DROP FRAME' if source.drop else 'NON-DROP FRAME'}",
        "",
    ]
    tracks = _TRACKS[min(source.sound_channels, 2)]
    record, _ = parse_timecode("01:00:00:00", source.rate)
    if source.drop:
        record, _ = parse_timecode("01:00:00;00", source.rate)
    for number, found in enumerate(answers.found, start=1):
        first, end = source.span(found.moment.start_s, found.moment.end_s)
        times = (
            *(source.timecode(first), source.timecode(end)),
            *(_record(record, source), _record(record + end - first, source)),
        )
        lines += [
            f"{number:03d}  {reel_name(path):<8} {tracks:<5} C        {' '.join(times)}",
            f"* FROM CLIP NAME: {one_line(path.name)}",
            f"* LOC: {times[2]} GREEN   {one_line(found.title)}",
            f"* QUERY: {one_line(found.query)}",
            f"* SCORE: {found.moment.score:.4f}",
            f"* SECONDS: {found.moment.start_s:.3f} TO {found.moment.end_s:.3f}",
            "",
        ]
        record += end - first
    return "\n".join(lines)


def _countable(source: SourceFacts) -> SourceFacts:
    """Return the source at a rate of 1 to 100 frames a second, whole or 1000/1001 of one."""
    most = _MOST_FRAMES if source.rate <= _MOST_FRAMES else 60
    return source.at_rate(editing_rate(source.rate, most))


def reel_name(path: VideoPath) -> str:
    """Return a reel name of at most eight letters and digits: `AX` if the file name has none."""
    plain = unicodedata.normalize("NFKD", path.stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Z0-9_]", "", plain.upper())[:_REEL_LETTERS] or "AX"


def _record(frame: int, source: SourceFacts) -> str:
    return format_timecode(frame, source.rate, drop=source.drop)
