"""Plots of an evaluation, in the colours of Okabe and Ito, made for colour-blind readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from r2rt.errors import BackendUnavailableError, OutputError
from r2rt.files import check_folder, replacing
from training.evaluation.benchmarks import Evaluation
from training.evaluation.curves import OUTCOMES, RECALLS, breakdown, precision_over_recall
from training.metrics import RECALL_IOUS, Annotation, MomentFigures, Prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_drawable", "draw"]

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Good to bad: blues, then what nearly was, then greys and reds of what was not.
_OUTCOME_COLORS = {
    "right": "#0072B2",
    "close": "#56B4E9",
    "ranked lower": "#009E73",
    "too long": "#F0E442",
    "too short": "#E69F00",
    "shifted": "#CC79A7",
    "elsewhere": "#555555",
}
_PRECISION_IOUS = (0.5, 0.7)
_STYLES = ("-", "--")


def check_drawable(folder: Path) -> None:
    """Check that plots can be drawn into a folder, which need not be there yet.

    Raises:
        BackendUnavailableError: Matplotlib is not installed.
        OutputError: a file is at that path, or the name is too long.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise BackendUnavailableError("plots need Matplotlib; pip install 'r2rt[train]'") from error
    check_folder(folder)


def draw(
    folder: Path,
    evaluations: Mapping[str, Evaluation],
    predictions: Mapping[str, Sequence[Prediction]],
    annotations: Mapping[str, Sequence[Annotation]],
) -> list[Path]:
    """Draw PNG files into a folder, which is made where it is absent.

    Args:
        folder: where to.
        evaluations: by their names in the legend, as the others.
        predictions: what was evaluated.
        annotations: in the same order as predictions.

    Returns:
        The files written: recall.png, precision_recall.png and errors.png of moments, domains.png
        of TVSum and YouTube Highlights.

    Raises:
        BackendUnavailableError: Matplotlib is not installed.
        OutputError: a file cannot be written.
    """
    check_drawable(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
    moments = {name: each.moments for name, each in evaluations.items() if each.moments}
    if not moments:
        return [_save(_domains(evaluations), folder / "domains.png")]
    return [
        _save(_recall(moments), folder / "recall.png"),
        _save(_precision_recall(predictions, annotations), folder / "precision_recall.png"),
        _save(_errors(predictions, annotations), folder / "errors.png"),
    ]


def _recall(moments: Mapping[str, Mapping[str, MomentFigures]]) -> Figure:
    figure, axes = _figure(1, (7, 4.6))
    for color, (name, figures) in zip(_cycle(moments), moments.items(), strict=True):
        for style, (k, values) in zip(_STYLES, figures["full"].recall.items(), strict=True):
            axes[0].plot(
                RECALL_IOUS,
                values,
                style,
                color=color,
                marker="o",
                markersize=3.5,
                label=f"{name}, R{k}",
            )
    _percent(axes[0], "queries found, %")
    axes[0].set_xlabel("IoU at least")
    axes[0].set_title("Recall: one of the first k moments reaches the IoU", loc="left", fontsize=10)
    _legend(figure, axes[0])
    return figure


def _precision_recall(
    predictions: Mapping[str, Sequence[Prediction]], annotations: Mapping[str, Sequence[Annotation]]
) -> Figure:
    figure, axes = _figure(1, (7, 4.6))
    for color, (name, lines) in zip(_cycle(predictions), predictions.items(), strict=True):
        curves = precision_over_recall(lines, annotations[name], _PRECISION_IOUS)
        for style, at, curve in zip(_STYLES, _PRECISION_IOUS, curves, strict=True):
            axes[0].plot(
                100 * RECALLS,
                100 * curve,
                style,
                color=color,
                drawstyle="steps-pre",
                label=f"{name}, IoU {at}",
            )
    _percent(axes[0], "precision, %")
    axes[0].set_xlabel("recall, % of a query's moments")
    axes[0].set_xlim(0, 100)
    axes[0].set_title(
        "Precision over recall, mean of the queries: the area is the mAP at that IoU",
        loc="left",
        fontsize=10,
    )
    _legend(figure, axes[0])
    return figure


def _errors(
    predictions: Mapping[str, Sequence[Prediction]], annotations: Mapping[str, Sequence[Annotation]]
) -> Figure:
    figure, axes = _figure(len(predictions), (8, 1.1 + 1.9 * len(predictions)))
    for axis, (name, lines) in zip(axes, predictions.items(), strict=True):
        parts = breakdown(lines, annotations[name])
        titles = [f"{length} ({part.num_queries})" for length, part in parts.items()]
        left = np.zeros(len(parts))
        for outcome in OUTCOMES:
            shares = np.array(
                [100 * part.counts[outcome] / max(part.num_queries, 1) for part in parts.values()]
            )
            bars = axis.barh(
                titles,
                shares,
                left=left,
                height=0.72,
                color=_OUTCOME_COLORS[outcome],
                edgecolor="white",
                linewidth=0.8,
                label=outcome,
            )
            dark = outcome in ("right", "elsewhere", "ranked lower")
            axis.bar_label(
                bars,
                [f"{share:.0f}" if share >= 3 else "" for share in shares],
                label_type="center",
                fontsize=8,
                color="white" if dark else "black",
            )
            left += shares
        axis.invert_yaxis()
        axis.set_xlim(0, 100)
        axis.set_title(f"{name}: what became of the first moment", loc="left", fontsize=10)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[-1].set_xlabel("% of the queries with a moment of that length (their number in brackets)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(OUTCOMES),
        fontsize=8,
        frameon=False,
        columnspacing=1.2,
        handlelength=1,
    )
    return figure


def _domains(evaluations: Mapping[str, Evaluation]) -> Figure:
    figure, axes = _figure(1, (8, 4.2))
    shown = {name: each.headline() for name, each in evaluations.items()}
    titles = list(next(iter(shown.values())))
    width = 0.8 / len(shown)
    colors = _cycle(shown)
    for index, (color, (name, values)) in enumerate(zip(colors, shown.items(), strict=True)):
        heights = [100 * float(str(values.get(title, 0))) for title in titles]
        places = np.arange(len(titles)) + (index - (len(shown) - 1) / 2) * width
        bars = axes[0].bar(places, heights, width, color=color, label=name)
        axes[0].bar_label(bars, fmt="%.0f", fontsize=7, padding=2)
    axes[0].set_xticks(np.arange(len(titles)), titles)
    _percent(axes[0], "mAP, %")
    axes[0].set_title("Highlights by domain", loc="left", fontsize=10)
    _legend(figure, axes[0])
    return figure


def _figure(rows: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(rows, 1, squeeze=False)[:, 0])


def _cycle(names: Mapping[str, object]) -> list[str]:
    return [_COLORS[index % len(_COLORS)] for index in range(len(names))]


def _percent(axis: Axes, label: str) -> None:
    axis.set_ylim(0, 102)
    axis.set_ylabel(label)
    axis.set_axisbelow(True)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axis: Axes) -> None:
    """Put the legend below, where no curve can run through it."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path) as temporary:
        # Without the version that would make every file differ.
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
    return path
