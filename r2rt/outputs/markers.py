"""Moments as markers of an editing program, and which file suits which program.

| program | format | how to import it |
|---|---|---|
| Premiere Pro | `xmeml` | File > Import: a sequence of moments, and the video with markers |
| DaVinci Resolve | `resolve-edl` | Timelines > Import > Timeline Markers from EDL [1] |
| DaVinci Resolve | `fcpxml`, `xmeml`, `otio` | File > Import > Timeline: the moments as clips |
| Final Cut Pro | `fcpxml` | File > Import > XML: keyword ranges, and a project of moments |
| any | `edl` | CMX 3600: the moments as events |

[1] On a timeline of the video's rate that holds the whole video from 01:00:00:00 on.

`premiere-csv` and `resolve-csv` have the columns of the marker lists that these programs export.
They are for spreadsheets, scripts and plug-ins: the programs themselves import no CSV.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from r2rt.outputs.answers import Answers
from r2rt.outputs.source import SourceFacts, editing_rate
from r2rt.printable import one_line

__all__ = ["COLORS", "Marker", "csv_text", "markers", "timeline_start"]

# Resolve's names, in an order in which neighbours differ; each query has one.
COLORS = ("Blue", "Green", "Yellow", "Red", "Pink", "Purple", "Cyan", "Fuchsia", "Mint", "Sand")


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A moment as a marker.

    Attributes:
        name: the query, on one line.
        note: score, rank and exact seconds.
        first: number of its first frame in the video, from 0.
        end: number of the frame after its last.
        color: one of `COLORS`, by query.
    """

    name: str
    note: str
    first: int
    end: int
    color: str


def markers(answers: Answers, *, most: int = 60) -> tuple[SourceFacts, list[Marker]]:
    """Return the video at a rate that editing programs know, and a marker for each moment.

    Args:
        answers: about one video.
        most: frames a second at most.

    Raises:
        R2rtError: the video cannot be read; see `Answers.source`.
    """
    source = answers.source.at_rate(editing_rate(answers.source.rate, most))
    places = {qid: number for number, qid in enumerate(answers.qids)}
    found = []
    for item in answers.found:
        moment = item.moment
        first, end = source.span(moment.start_s, moment.end_s)
        found.append(
            Marker(
                name=one_line(item.query),
                note=f"score {moment.score:.4f}, rank {item.rank}, "
                f"{moment.start_s:.3f} to {moment.end_s:.3f} s",
                first=first,
                end=end,
                color=COLORS[places[item.qid] % len(COLORS)],
            )
        )
    return source, found


def timeline_start(source: SourceFacts) -> int:
    """Return the number of the frame that timecode calls 01:00:00:00, where timelines begin."""
    from r2rt.timecode import parse_timecode

    return parse_timecode("01:00:00;00" if source.drop else "01:00:00:00", source.rate)[0]


def csv_text(answers: Answers, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV, in which no text is a formula; see `r2rt.outputs.csv_format`."""
    from r2rt.outputs.csv_format import safe_cell

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    for row in rows:
        writer.writerow([cell if answers.csv_raw else safe_cell(cell) for cell in row])
    return text.getvalue()
