"""Ask the demo model about `emoji.mp4`, and print what it finds beside what is true.

python demo/compare.py
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

import r2rt
from r2rt import Grounder
from r2rt.model.installed import resolve

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Ground every query of emoji.json and print a table."""
    content = json.loads((HERE / "emoji.json").read_text())
    grounder = Grounder.load(resolve(Path(r2rt.__file__).parent / "demo"))
    began = time.perf_counter()
    video = grounder.encode(HERE / content["video"])
    predictions = grounder.ground(video, [query["query"] for query in content["queries"]])
    took_s = time.perf_counter() - began
    table = Table("sentence", "on screen", "found", "score", "overlap")
    for query, prediction in zip(content["queries"], predictions, strict=True):
        best = prediction.moments[0]
        found = (best.start_s, best.end_s)
        overlap = max(iou(found, span) for span in query["true_s"])
        table.add_row(
            query["query"],
            "\n".join(clock(span) for span in query["true_s"]),
            clock(found),
            f"{best.score:.2f}",
            f"{100 * overlap:.0f} %",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{len(predictions)} sentences about {video.duration_s:.0f} s of video in {took_s:.1f} s; "
        f"look for yourself: {HERE / content['video']}",
        soft_wrap=True,
    )
    console.print(content["credit"], style="dim", soft_wrap=True)


def iou(one: tuple[float, float], two: tuple[float, float]) -> float:
    """Return the intersection of two spans over their union."""
    shared = max(0.0, min(one[1], two[1]) - max(one[0], two[0]))
    return shared / (one[1] - one[0] + two[1] - two[0] - shared)


def clock(span: tuple[float, float]) -> str:
    """Return a span as minutes and seconds."""
    return " to ".join(f"{int(time_s // 60)}:{time_s % 60:04.1f}" for time_s in span)


if __name__ == "__main__":
    main()
