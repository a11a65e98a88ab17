"""Plots of a report: bars of what was timed, or lines against a size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot

if TYPE_CHECKING:
    from benchmarks.harness import Report, Row

__all__ = ["draw_bars", "lines"]


def draw_bars(report: Report, path: Path) -> None:
    """Draw each group's medians as bars, a whisker up to the 95th percentile."""
    groups = list(dict.fromkeys(row.group for row in report.rows if row.seconds))
    heights = [sum(row.group == group for row in report.rows if row.seconds) for group in groups]
    figure, axes = pyplot.subplots(
        len(groups),
        1,
        figsize=(9, 0.9 * len(groups) + 0.36 * sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis, group in zip(axes[:, 0], groups, strict=True):
        rows = [row for row in report.rows if row.group == group and row.seconds]
        names = [row.name for row in rows]
        medians = [row.seconds.p50_s for row in rows if row.seconds]
        above = [row.seconds.p95_s - row.seconds.p50_s for row in rows if row.seconds]
        bars = axis.barh(
            names, medians, xerr=[[0.0] * len(rows), above], color="#4878a8", capsize=2
        )
        labels = ["" if row.speedup is None else f"{row.speedup:.2g}×" for row in rows]
        axis.bar_label(bars, labels, padding=4, fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(group, loc="left", fontsize=10)
        axis.set_xlabel("s", fontsize=8)
        axis.tick_params(labelsize=8)
    _save(report, path)
    pyplot.close(figure)


def lines(x: str, y: str, *, log: bool = False) -> Callable[[Report, Path], None]:
    """Return what draws the column `y` against the column `x`, a line a series, a panel a group.

    Rows need both columns; those of one series share the text before the comma of their name.
    """

    def draw(report: Report, path: Path) -> None:
        rows = [row for row in report.rows if x in row.values and y in row.values]
        groups = list(dict.fromkeys(row.group for row in rows))
        figure, axes = pyplot.subplots(
            1, len(groups), figsize=(4.6 * len(groups), 3.6), squeeze=False, layout="constrained"
        )
        for axis, group in zip(axes[0], groups, strict=True):
            series: dict[str, list[Row]] = {}
            for row in rows:
                if row.group == group:
                    series.setdefault(row.name.split(",")[0], []).append(row)
            for name, members in series.items():
                xs = [float(row.values[x]) for row in members]
                ys = [float(row.values[y]) for row in members]
                axis.plot(xs, ys, marker="o", markersize=3, label=name)
            axis.set_title(group, loc="left", fontsize=10)
            axis.set_xlabel(x, fontsize=8)
            axis.set_ylabel(y, fontsize=8)
            if log:
                axis.set_xscale("log")
                axis.set_yscale("log")
            else:
                axis.set_ylim(bottom=0)
            axis.tick_params(labelsize=8)
            axis.legend(fontsize=8)
        _save(report, path)
        pyplot.close(figure)

    return draw


def _save(report: Report, path: Path) -> None:
    # Without the date and version that would make every file differ.
    pyplot.savefig(path, dpi=110, metadata={"Software": None, "Title": report.name})
