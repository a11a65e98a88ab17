"""SubRip subtitles: a cue a moment, in the order of the video, with its query and score."""

from __future__ import annotations

from r2rt.outputs.answers import Answers
from r2rt.outputs.cues import cue_times_ms
from r2rt.timecode import format_clock_ms

__all__ = ["render"]

# SubRip knows no escapes, and players take these for tags, styles and the arrow between times.
_TAGS = str.maketrans("<>{}", "‹›()")


def render(answers: Answers) -> str:
    """Return the subtitles of a video on the source's clock; cues overlap as moments do."""
    return "\n".join(
        f"{number}\n{_time(start)} --> {_time(end)}\n{found.title.translate(_TAGS)}\n"
        for number, (start, end, found) in enumerate(cue_times_ms(answers.found), start=1)
    )


def _time(milliseconds: int) -> str:
    return format_clock_ms(milliseconds / 1000, mark=",")
