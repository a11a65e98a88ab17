"""Comma-separated values (RFC 4180): a header, then a row a moment, best first a query."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from r2rt.outputs.answers import Answers
from r2rt.timecode import format_clock_ms

__all__ = ["COLUMNS", "render", "render_all"]

COLUMNS = (
    *("video", "qid", "query", "rank", "start_s", "end_s", "score"),
    *("start", "end", "error"),
)


def render(answers: Answers) -> str:
    """Return the table of one video; one that failed has a single row, with its error."""
    return render_all([answers])


def render_all(answers: Sequence[Answers]) -> str:
    """Return the rows of all videos in order under one header."""
    text = io.StringIO()
    rows = csv.writer(text)  # its defaults are RFC 4180: commas, CRLF, quotes where needed
    rows.writerow(COLUMNS)
    for item in answers:
        if item.error is not None:
            rows.writerow([item.video, *[""] * (len(COLUMNS) - 2), str(item.error)])
        rows.writerows(_rows(item))
    return text.getvalue()


def _rows(answers: Answers) -> list[list[object]]:
    return [
        [
            *(prediction.video, qid, prediction.query, rank),
            *(round(moment.start_s, 6), round(moment.end_s, 6), round(moment.score, 6)),
            *(format_clock_ms(moment.start_s), format_clock_ms(moment.end_s), ""),
        ]
        for prediction, qid in zip(answers.predictions, answers.qids, strict=True)
        for rank, moment in enumerate(prediction.moments, start=1)
    ]
