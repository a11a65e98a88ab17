"""Plots of a report: bars of what was timed, or lines against a size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from benchmarks.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_bars", "grouped_lines", "stacked_lines"]


def draw_bars(report: Results, path: Path) -> None:
    """Draw each group's medians as bars, a whisker up to the 95th percentile."""
    pyplot = _pyplot()
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
    _save(figure, report, path)
    pyplot.close(figure)


def grouped_lines(
    x_of_group: Mapping[str, str], y: str, *, log: bool = False
) -> Callable[[Results, Path], None]:
    """Return what draws the column `y` against another, a panel a group and a line a case.

    Args:
        x_of_group: the column on the abscissa of each group that is drawn.
        y: the column on the ordinate.
        log: whether both axes are logarithmic.
    """

    def draw(report: Results, path: Path) -> None:
        pyplot = _pyplot()
        figure, axes = pyplot.subplots(
            1,
            len(x_of_group),
            figsize=(4.8 * len(x_of_group), 3.8),
            squeeze=False,
            layout="constrained",
        )
        for axis, (group, x) in zip(axes[0], x_of_group.items(), strict=True):
            rows = [row for row in report.rows if row.group == group]
            for name in dict.fromkeys(row.name for row in rows):
                points = [
                    (float(row.values[x]), float(row.values[y])) for row in rows if row.name == name
                ]
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
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
        _save(figure, report, path)
        pyplot.close(figure)

    return draw


def stacked_lines(
    group: str, x: str, panels: Mapping[str, Sequence[str]]
) -> Callable[[Results, Path], None]:
    """Return what draws columns of one group, panel under panel over the same abscissa.

    Args:
        group: whose rows are drawn, a line a case and column.
        x: the column on the abscissa.
        panels: the columns that each panel shows, by what its ordinate is called.
    """

    def draw(report: Results, path: Path) -> None:
        pyplot = _pyplot()
        figure, axes = pyplot.subplots(
            len(panels), 1, figsize=(8, 2.6 * len(panels)), sharex=True, layout="constrained"
        )
        rows = [row for row in report.rows if row.group == group]
        for axis, (label, columns) in zip(axes, panels.items(), strict=True):
            for name in dict.fromkeys(row.name for row in rows):
                for column in columns:
                    points = [
                        (float(row.values[x]), float(row.values[column]))
                        for row in rows
                        if row.name == name and column in row.values
                    ]
                    if points:
                        axis.plot(
                            *zip(*points, strict=True),
                            marker="o",
                            markersize=3,
                            label=f"{name}, {column}",
                        )
            axis.set_ylabel(label, fontsize=8)
            axis.set_ylim(0, 1.25 * axis.get_ylim()[1])  # room for the legend
            axis.tick_params(labelsize=8)
            axis.legend(fontsize=8, loc="upper left", ncols=2)
        axes[-1].set_xlabel(x, fontsize=8)
        _save(figure, report, path)
        pyplot.close(figure)

    return draw


def _pyplot() -> ModuleType:
    """Return the plotting module, drawing to files; imported when it is needed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Figure, report: Results, path: Path) -> None:
    # Without the version that would make every file differ.
    figure.savefig(path, dpi=110, metadata={"Software": None, "Title": report.name})
