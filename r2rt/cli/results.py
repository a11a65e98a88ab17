"""Predictions as text: a table for people, JSON for programs, QVHighlights submission lines."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from r2rt.prediction import Prediction
from r2rt.queries import Query
from r2rt.timecode import format_clock

__all__ = ["as_json", "as_jsonl", "as_table"]

_BARS = " ▁▂▃▄▅▆▇█"
# A table is as wide as the terminal; the line of bars leaves room for its label and two times.
_MOST_BARS, _BESIDE_BARS = 60, 32


def as_table(predictions: Sequence[Prediction], *, width: int, color: bool) -> str:
    """Return one table a query, its moments best first, with the saliency as a line of bars."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(
        file=io.StringIO(), width=width, force_terminal=color, highlight=False, emoji=False
    )
    for prediction in predictions:
        table = Table(title=Text(prediction.query, style="bold"), title_justify="left")
        table.add_column("#", justify="right")
        table.add_column("start", justify="right")
        table.add_column("end", justify="right")
        table.add_column("score", justify="right")
        for rank, moment in enumerate(prediction.moments, start=1):
            table.add_row(
                str(rank),
                format_clock(moment.start_s),
                format_clock(moment.end_s),
                f"{moment.score:.3f}",
            )
        if prediction.moments:
            console.print(table)
        else:
            console.print(Text(f"{prediction.query}: no moments"))
        first, last = prediction.clip_starts_s[0], prediction.clip_starts_s[-1]
        line = f"saliency {format_clock(first)} {_sparkline(prediction, width - _BESIDE_BARS)} "
        console.print(Text(line + format_clock(last + 1 / float(prediction.fps))))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


def as_json(predictions: Sequence[Prediction], queries: Sequence[Query]) -> str:
    """Return one JSON document with everything but the raw boundaries."""
    first = predictions[0]
    document = {
        "video": first.video,
        "duration_s": first.duration_s,
        "fps": str(first.fps),
        "sampling": first.sampling,
        "model": first.model,
        "timings": first.timings,
        "results": [
            {
                "qid": query.qid,
                "query": prediction.query,
                "query_truncated": prediction.query_truncated,
                "moments": prediction.moments,
                "saliency": [
                    {"start_s": start, "score": round(score, 6)}
                    for start, score in zip(
                        prediction.clip_starts_s.tolist(),
                        prediction.saliency.tolist(),
                        strict=True,
                    )
                ],
            }
            for prediction, query in zip(predictions, queries, strict=True)
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def as_jsonl(predictions: Sequence[Prediction], queries: Sequence[Query]) -> str:
    """Return a QVHighlights submission: one line a query.

    The video's id is its file name without the ending, as in that data set's annotations.
    """
    return "".join(
        msgspec.json.encode(_submission(prediction, query)).decode() + "\n"
        for prediction, query in zip(predictions, queries, strict=True)
    )


def _submission(prediction: Prediction, query: Query) -> dict[str, Any]:
    return {
        "qid": query.qid,
        "query": prediction.query,
        "vid": Path(prediction.video).stem,
        "pred_relevant_windows": [
            [round(m.start_s, 4), round(m.end_s, 4), round(m.score, 4)] for m in prediction.moments
        ],
        "pred_saliency_scores": [round(score, 4) for score in prediction.saliency.tolist()],
    }


def _sparkline(prediction: Prediction, room: int) -> str:
    """Return the saliency as bars, each the best of the clips it covers."""
    scores = prediction.saliency.tolist()
    count = min(len(scores), _MOST_BARS, max(room, 1))
    edges = [round(index * len(scores) / count) for index in range(count + 1)]
    peaks = [max(scores[a:b]) for a, b in itertools.pairwise(edges)]
    low, high = min(peaks), max(peaks)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((peak - low) * scale)] for peak in peaks)
