"""The columns of Premiere Pro's marker list, timecodes counted from 00:00:00:00."""

from __future__ import annotations

from r2rt.outputs.answers import Answers
from r2rt.outputs.markers import csv_text, markers
from r2rt.timecode import format_timecode

__all__ = ["render"]

_HEADER = ("Marker Name", "Description", "In", "Out", "Duration", "Marker Type")


def render(answers: Answers) -> str:
    """Return the list of a video's moments.

    Raises:
        R2rtError: the video cannot be read; see `Answers.source`.
    """
    source, found = markers(answers)

    def timecode(frame: int) -> str:
        return format_timecode(frame, source.rate, drop=source.drop)

    rows = [
        (
            *(marker.name, marker.note, timecode(marker.first), timecode(marker.end)),
            *(timecode(marker.end - marker.first), "Comment"),
        )
        for marker in found
    ]
    return csv_text(answers, _HEADER, rows)
