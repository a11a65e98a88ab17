"""Comma-separated values (RFC 4180): a header, then a row a moment, best first a query.

Spreadsheets take a cell that begins with `= + - @` for a formula and compute it. Names and queries
that do get an apostrophe in front, which spreadsheets show as text, and lose control characters;
`Answers.csv_raw` leaves them as they are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence

from r2rt.outputs.answers import Answers
from r2rt.printable import printable
from r2rt.timecode import format_clock_ms

__all__ = ["COLUMNS", "render", "render_all", "safe_cell"]

COLUMNS = (
    *("video", "qid", "query", "rank", "start_s", "end_s", "score"),
    *("start", "end", "error"),
)

_FORMULA_SIGNS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # full-width ones are signs too


def render(answers: Answers) -> str:
    """Return the table of one video; one that failed has a single row, with its error."""
    return render_all([answers])


def render_all(answers: Sequence[Answers]) -> str:
    """Return the rows of all videos in order under one header."""
    text = io.StringIO()
    rows = csv.writer(text)  # its defaults are RFC 4180: commas, CRLF, quotes where needed
    rows.writerow(COLUMNS)
    for item in answers:
        cell = str if item.csv_raw else safe_cell
        if item.error is not None:
            rows.writerow([cell(item.shown), *[""] * (len(COLUMNS) - 2), cell(item.error)])
        rows.writerows(_rows(item, cell))
    return text.getvalue()


def _rows(answers: Answers, cell: Callable[[object], str]) -> list[list[object]]:
    return [
        [
            *(cell(prediction.video), cell(qid), cell(prediction.query), rank),
            *(round(moment.start_s, 6), round(moment.end_s, 6), round(moment.score, 6)),
            *(format_clock_ms(moment.start_s), format_clock_ms(moment.end_s), ""),
        ]
        for prediction, qid in zip(answers.predictions, answers.qids, strict=True)
        for rank, moment in enumerate(prediction.moments, start=1)
    ]


def safe_cell(value: object) -> str:
    """Return text that is no formula, and moves no cursor when it is printed."""
    lines = re.split("(\r?\n)", str(value))
    lines[::2] = [printable(line, " ") for line in lines[::2]]
    text = "".join(lines)
    return f"'{text}" if text.lstrip().startswith(_FORMULA_SIGNS) else text
