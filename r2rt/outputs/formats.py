"""Every format by name: what writes it, what its files are called, what it can hold."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from r2rt.errors import QueryError
from r2rt.files import as_text
from r2rt.outputs.answers import Answers

__all__ = ["FORMATS", "Format", "FormatName", "render"]

FormatName = Literal[
    "table",
    "json",
    "jsonl",
    "csv",
    "srt",
    "vtt",
    "chapters",
    "edl",
    "otio",
    "fcpxml",
    "xmeml",
    "resolve-edl",
    "resolve-csv",
    "premiere-csv",
]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A way of writing answers down.

    Attributes:
        name: what it is asked for by.
        suffix: how its files' names end.
        summary: what it is, in few words.
        holds_several: whether one text can hold the answers about several videos.
        counts_frames: whether times are timecodes, for which the video's rate must be known.
        moments: which moments of a query are written by default: `few` is the best five, `good`
            those that `r2rt.selection.worthwhile` chooses.
        complete: whether moments of queries that are not in the video are written too; see
            `Answers.reported`.
    """

    name: FormatName
    suffix: str
    summary: str
    holds_several: bool = False
    counts_frames: bool = False
    moments: Literal["few", "good", "all"] = "good"
    complete: bool = False

    def render(self, answers: Answers | Sequence[Answers]) -> str:
        """Return the text of a file about one video, or of one about any number of them.

        Raises:
            QueryError: the format is of one video and got a sequence.
            R2rtError: the video must be looked at, and cannot be read.
        """
        module = importlib.import_module(f"r2rt.outputs.{self.name.replace('-', '_')}_format")
        if not self.complete:
            if isinstance(answers, Answers):
                answers = answers.reported
            else:
                answers = [item.reported for item in answers]
        if isinstance(answers, Answers):
            text: str = module.render(answers)
        elif self.holds_several:
            text = module.render_all(answers)
        else:
            raise QueryError(
                f"{self.name} holds one video; for several, write a file for each: --output-dir"
            )
        return as_text(text)


_ALL = (
    Format(
        name="table",
        suffix=".txt",
        summary="for people",
        holds_several=True,
        moments="few",
    ),
    Format(
        name="json",
        suffix=".json",
        summary="everything, one document",
        holds_several=True,
        moments="all",
        complete=True,
    ),
    Format(
        name="jsonl",
        suffix=".jsonl",
        summary="lines of a QVHighlights submission",
        holds_several=True,
        moments="all",
        complete=True,
    ),
    Format(
        name="csv",
        suffix=".csv",
        summary="a row a moment",
        holds_several=True,
        moments="all",
    ),
    Format(name="srt", suffix=".srt", summary="subtitles"),
    Format(name="vtt", suffix=".vtt", summary="subtitles of the web"),
    Format(name="chapters", suffix=".chapters.txt", summary="chapters for ffmpeg to put in"),
    Format(name="edl", suffix=".edl", summary="CMX 3600 edit list", counts_frames=True),
    Format(name="otio", suffix=".otio", summary="OpenTimelineIO", counts_frames=True),
    Format(name="fcpxml", suffix=".fcpxml", summary="Final Cut Pro, Resolve", counts_frames=True),
    Format(name="xmeml", suffix=".xml", summary="Premiere Pro, Resolve", counts_frames=True),
    Format(
        name="resolve-edl",
        suffix=".resolve.edl",
        summary="timeline markers for Resolve",
        counts_frames=True,
    ),
    Format(
        name="resolve-csv",
        suffix=".resolve.csv",
        summary="markers as Resolve lists them",
        counts_frames=True,
    ),
    Format(
        name="premiere-csv",
        suffix=".premiere.csv",
        summary="markers as Premiere lists them",
        counts_frames=True,
    ),
)
FORMATS: dict[str, Format] = {item.name: item for item in _ALL}
assert set(FORMATS) == set(get_args(FormatName))


def render(name: str, answers: Answers | Sequence[Answers]) -> str:
    """Return answers in a format; `FORMATS` has their names.

    Which of them suits which editing program: see `r2rt.outputs.markers`.

    Args:
        name: the format.
        answers: about one video, or a sequence of them, which the first four formats can hold.

    Raises:
        QueryError: there is no such format, or it is of one video and got a sequence.
        R2rtError: the format counts frames, and the video cannot be read.
    """
    if name not in FORMATS:
        raise QueryError(f"no format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name].render(answers)
