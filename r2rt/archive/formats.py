"""The hits of a search as text: a table for people, JSON, CSV, a playlist, a timeline."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import msgspec

from r2rt.archive.result import Hit, SearchResult
from r2rt.errors import QueryError
from r2rt.files import as_text
from r2rt.outputs.csv_format import safe_cell
from r2rt.printable import escape_controls, one_line, printable
from r2rt.timecode import format_clock, format_clock_ms

__all__ = ["COLUMNS", "FORMATS", "render"]

COLUMNS = (
    *("rank", "video", "start_s", "end_s", "score", "start", "end"),
    *("grounder_score", "cosine", "words", "date", "tags", "query"),
)
_MOST_WORDS = 60


def render(
    name: str,
    found: SearchResult,
    failed: Callable[[str, str], None] = lambda _path, _reason: None,
) -> str:
    """Return the hits in a format of `FORMATS`.

    Args:
        name: of the format.
        found: the hits.
        failed: called with the path of a video that cannot be read, and the reason; a timeline,
            which counts frames, leaves it out.

    Raises:
        QueryError: there is no such format.
    """
    if name not in FORMATS:
        raise QueryError(f"no format {name!r}; there are {', '.join(FORMATS)}")
    return as_text(FORMATS[name](found, failed))


def _json(found: SearchResult) -> str:
    text = msgspec.json.format(msgspec.json.encode(found.to_dict()), indent=2).decode()
    return escape_controls(text) + "\n"


def _jsonl(found: SearchResult) -> str:
    """Return a line a hit, as in the document, with rank and query."""
    return "".join(
        escape_controls(
            msgspec.json.encode({"rank": rank, "query": found.query, **record}).decode()
        )
        + "\n"
        for rank, record in enumerate(found.to_dict()["hits"], start=1)
    )


def _csv(found: SearchResult) -> str:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    for rank, hit in enumerate(found, start=1):
        numbers = [
            "" if value is None else round(value, 6) for value in (hit.grounder_score, hit.cosine)
        ]
        rows.writerow(
            [
                *(rank, safe_cell(hit.path), round(hit.start_s, 6), round(hit.end_s, 6)),
                *(round(hit.score, 6), format_clock_ms(hit.start_s), format_clock_ms(hit.end_s)),
                *(*numbers, safe_cell(hit.words or ""), hit.date or ""),
                *(safe_cell(" ".join(hit.tags)), safe_cell(found.query or "")),
            ]
        )
    return text.getvalue()


def _table(found: SearchResult) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=io.StringIO(), width=100, highlight=False, emoji=False)
    if not found.hits:
        return "no moments\n"
    table = Table()
    for name in ("#", "score", "start", "end"):
        table.add_column(name, justify="right")
    table.add_column("video", overflow="fold")
    if any(hit.words for hit in found):
        table.add_column("words", overflow="fold")
    for rank, hit in enumerate(found, start=1):
        cells = [str(rank), f"{hit.score:.3f}", format_clock(hit.start_s), format_clock(hit.end_s)]
        texts = [printable(hit.path, " ")]
        if len(table.columns) > len(cells) + 1:
            texts.append(one_line(hit.words or "")[:_MOST_WORDS])
        table.add_row(*cells, *map(Text, texts))
    console.print(table)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def _m3u8(found: SearchResult) -> str:
    """Return a playlist that VLC plays, hit by hit.

    The times are options of VLC; other players take them for comments, and play whole videos.
    """
    lines = ["#EXTM3U"]
    for hit in found:
        title = f"{one_line(found.query or 'like the image')} ({hit.score:.2f})"
        lines += [
            f"#EXTINF:{hit.end_s - hit.start_s:.3f},{title}",
            f"#EXTVLCOPT:start-time={hit.start_s:.3f}",
            f"#EXTVLCOPT:stop-time={hit.end_s:.3f}",
            _location(hit),
        ]
    return "\n".join(lines) + "\n"


def _location(hit: Hit) -> str:
    """Return a path as a URI, whatever signs and line breaks the name has."""
    return hit.path if "://" in hit.path else Path(hit.path).absolute().as_uri()


def _otio(found: SearchResult, failed: Callable[[str, str], None]) -> str:
    from r2rt.archive.timeline import render_timeline

    return render_timeline(found, failed)


FORMATS: dict[str, Callable[[SearchResult, Callable[[str, str], None]], str]] = {
    "table": lambda found, _: _table(found),
    "json": lambda found, _: _json(found),
    "jsonl": lambda found, _: _jsonl(found),
    "csv": lambda found, _: _csv(found),
    "m3u8": lambda found, _: _m3u8(found),
    "otio": _otio,
}
