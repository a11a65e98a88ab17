"""Tables for people: the moments of each query, best first, and the saliency as a line of bars."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from r2rt.grounding.prediction import Prediction
from r2rt.outputs.answers import Answers
from r2rt.printable import printable
from r2rt.timecode import format_clock

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["render", "render_all", "render_ranking"]

_WIDTH = 100
_BARS = " ▁▂▃▄▅▆▇█"
# A table is as wide as the terminal; the line of bars leaves room for its label and two times.
_MOST_BARS, _BESIDE_BARS = 60, 32


def render(answers: Answers, *, width: int = _WIDTH, color: bool = False) -> str:
    """Return one table a query.

    Args:
        answers: about one video.
        width: columns of the terminal.
        color: whether to style the text for a terminal.
    """
    console = _console(width, color)
    _print_video(console, answers)
    return _text(console)


def render_all(answers: Sequence[Answers], *, width: int = _WIDTH, color: bool = False) -> str:
    """Return the tables of every video under its name."""
    from rich.text import Text

    console = _console(width, color)
    for number, item in enumerate(answers):
        if number:
            console.print()
        console.print(Text(printable(item.shown, " "), style="bold underline"))
        if item.error is None:
            _print_video(console, item)
        else:
            console.print(Text(f"failed: {printable(str(item.error), ' ')}", style="red"))
    return _text(console)


def render_ranking(
    answers: Sequence[Answers],
    *,
    top: int | None = None,
    width: int = _WIDTH,
    color: bool = False,
) -> str:
    """Return one table of the moments of all videos and queries, best first.

    Args:
        answers: about any number of videos.
        top: rows at most; None for all. A line below says how many were left out.
        width: columns of the terminal.
        color: whether to style the text for a terminal.
    """
    from rich.text import Text

    console = _console(width, color)
    table = _table("score", "start", "end")
    table.add_column("video", overflow="fold")
    queries = {p.query for item in answers for p in item.predictions}
    if len(queries) > 1:
        table.add_column("query", overflow="fold")
    rows = [(found, item.shown) for item in answers for found in item.found]
    rows.sort(key=lambda row: -row[0].moment.score)  # stable: then by video and time
    for number, (found, video) in enumerate(rows[:top], start=1):
        moment = found.moment
        cells = [str(number), f"{moment.score:.3f}"]
        cells += [format_clock(moment.start_s), format_clock(moment.end_s)]
        names = [video, found.query][: 2 if len(queries) > 1 else 1]
        table.add_row(*cells, *(Text(printable(name, " ")) for name in names))
    console.print(table if rows else Text("no moments"))
    if top is not None and len(rows) > top:
        console.print(Text(f"{len(rows) - top} further moments; --rows {len(rows)} prints all"))
    return _text(console)


def _console(width: int, color: bool) -> Console:
    from rich.console import Console

    return Console(
        file=io.StringIO(), width=width, force_terminal=color, highlight=False, emoji=False
    )


def _text(console: Console) -> str:
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table()
    for name in ("#", *columns):
        table.add_column(name, justify="right")
    return table


def _print_video(console: Console, answers: Answers) -> None:
    for prediction in answers.predictions:
        _print_query(console, prediction)


def _print_query(console: Console, prediction: Prediction) -> None:
    from rich.text import Text

    query = printable(prediction.query, " ")
    table = _table("start", "end", "score")
    for rank, moment in enumerate(prediction.moments, start=1):
        table.add_row(
            str(rank),
            format_clock(moment.start_s),
            format_clock(moment.end_s),
            f"{moment.score:.3f}",
        )
    if prediction.moments:
        # Not the table's own title, which would be broken to the table's width.
        console.print(Text(query, style="bold"))
        console.print(table)
    nothing = "not in this video" if prediction.present is False else "no moments"
    if prediction.present is False or not prediction.moments:
        console.print(Text(f"{query}: {nothing}"))
    first, last = prediction.clip_starts_s[0], prediction.clip_starts_s[-1]
    bars = _sparkline(prediction, console.width - _BESIDE_BARS)
    # The last clip may reach beyond the end of the video.
    end = format_clock(min(last + 1 / float(prediction.fps), first + prediction.duration_s))
    console.print(Text(f"saliency {format_clock(first)} {bars} {end}"))


def _sparkline(prediction: Prediction, room: int) -> str:
    """Return the saliency as bars, each the best of the clips it covers."""
    scores = prediction.saliency.tolist()
    count = min(len(scores), _MOST_BARS, max(room, 1))
    edges = [round(index * len(scores) / count) for index in range(count + 1)]
    peaks = [max(scores[a:b]) for a, b in itertools.pairwise(edges)]
    low, high = min(peaks), max(peaks)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((peak - low) * scale)] for peak in peaks)
