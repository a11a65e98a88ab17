"""Markers as DaVinci Resolve imports them into a timeline: Timeline Markers from EDL.

The timeline holds the whole video from 01:00:00:00 on, at the video's rate. Each moment is a marker
as long as the moment: its name is the query, its colour that of the query, its note the score.
"""

from __future__ import annotations

from r2rt.outputs.answers import Answers
from r2rt.outputs.markers import markers, timeline_start
from r2rt.printable import one_line
from r2rt.timecode import format_timecode

__all__ = ["render"]


def render(answers: Answers) -> str:
    """Return the list of a video's moments.

    Raises:
        R2rtError: the video cannot be read; see `Answers.source`.
    """
    source, found = markers(answers)
    start = timeline_start(source)
    lines = [
        f"TITLE: {one_line(answers.path.stem)}",
        f"FCM: {'DROP FRAME' if source.drop else 'NON-DROP FRAME'}",
        "",
    ]
    for number, marker in enumerate(found, start=1):
        at, after = (
            format_timecode(start + marker.first + later, source.rate, drop=source.drop)
            for later in (0, 1)
        )
        length = marker.end - marker.first
        name = marker.name.replace("|", "/")  # a bar begins the next field
        lines += [
            f"{number:03d}  001      V     C        {at} {after} {at} {after}",
            f" {marker.note} |C:ResolveColor{marker.color} |M:{name} |D:{length}",
            "",
        ]
    return "\n".join(lines)
