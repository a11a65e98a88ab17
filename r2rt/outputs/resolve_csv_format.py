"""The columns of DaVinci Resolve's edit index, a row a marker.

Record times are those on a timeline that holds the whole video from 01:00:00:00 on, source times
are on the video's own timecode.
"""

from __future__ import annotations

from r2rt.outputs.answers import Answers
from r2rt.outputs.edl_format import reel_name
from r2rt.outputs.markers import csv_text, markers, timeline_start
from r2rt.timecode import format_timecode

__all__ = ["render"]

_HEADER = (
    *("#", "Reel", "V", "Dur", "Source In", "Source Out", "Record In", "Record Out"),
    *("Name", "Color", "Notes"),
)


def render(answers: Answers) -> str:
    """Return the list of a video's moments.

    Raises:
        R2rtError: the video cannot be read; see `Answers.source`.
    """
    source, found = markers(answers)
    start = timeline_start(source)

    def timecode(frame: int) -> str:
        return format_timecode(frame, source.rate, drop=source.drop)

    rows = [
        (
            *(number, reel_name(answers.path), "V1", timecode(marker.end - marker.first)),
            *(source.timecode(marker.first), source.timecode(marker.end)),
            *(timecode(start + marker.first), timecode(start + marker.end)),
            *(marker.name, marker.color, marker.note),
        )
        for number, marker in enumerate(found, start=1)
    ]
    return csv_text(answers, _HEADER, rows)
