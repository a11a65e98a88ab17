"""What a run reports: metrics.jsonl, TensorBoard, progress on stderr, the plot."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from r2rt.errors import OutputError
from r2rt.files import replacing
from training.errors import TrainingError
from training.trainer.state import RunFolder

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID
    from torch.utils.tensorboard.writer import SummaryWriter

__all__ = ["History", "plot_losses", "read_metrics", "steps_bar"]

_LINE_EVERY_S = 30.0
# The plot shows means over this share of the run.
_SMOOTHING = 0.02


class History:
    """Writes a line of losses a step and of figures a validation; the last resumption's win.

    Args:
        folder: of the run.
        step: steps that are done; what was written of later ones is removed.
        tensorboard: whether to write event files as well.
        log_steps: steps between points in TensorBoard.
    """

    def __init__(self, folder: RunFolder, *, step: int, tensorboard: bool, log_steps: int) -> None:
        self._log_steps = log_steps
        self._board = _board(folder.tensorboard, step) if tensorboard else None
        kept = [line for line in read_metrics(folder.metrics) if line["step"] <= step]
        with replacing(folder.metrics) as temporary:
            temporary.write_text("".join(map(_line, kept)), encoding="utf-8")
        self._file: IO[str] = folder.metrics.open("a", encoding="utf-8")

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write the losses, learning rate and gradient norm of a step, counted from 1."""
        with self._writing():
            self._file.write(_line({"step": step, **numbers}))
            if self._board is not None and step % self._log_steps == 0:
                for name, value in numbers.items():
                    self._board.add_scalar(f"train/{name}", value, step)

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures of a validation after so many steps."""
        with self._writing():
            self._file.write(_line({"step": step, "validation": dict(figures)}))
            if self._board is not None:
                for name, value in figures.items():
                    self._board.add_scalar(f"val/{name}", value, step)

    def flush(self) -> None:
        """Hand everything to the operating system; it outlives the process from then on."""
        with self._writing():
            self._file.flush()
            os.fsync(self._file.fileno())
            if self._board is not None:
                self._board.flush()

    def close(self) -> None:
        """Flush and close the files."""
        try:
            with self._writing(), self._file:
                self.flush()
        finally:
            if self._board is not None:
                self._board.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, OutputError):  # when the files are closed
                raise
            raise OutputError(
                f"{self._file.name}: cannot be written ({error.strerror or error}); free some space"
            ) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl; a last line that was cut off is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


class StepsBar:
    """Progress through a run's steps on stderr: a bar on a terminal, else a line now and then."""

    def __init__(self, bar: Bar | None, total: int, *, quiet: bool) -> None:
        self._bar = bar
        self._total = total
        self._quiet = quiet
        self._task: TaskID | None = None if bar is None else bar.add_task("", total=total)
        self._last_s = -_LINE_EVERY_S

    def update(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show the steps that are done, and the last one's loss and learning rate."""
        text = f"loss {numbers['loss']:.4f}  lr {numbers['lr']:.2e}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, description=text)
        elif not self._quiet and time.monotonic() - self._last_s >= _LINE_EVERY_S:
            self._last_s = time.monotonic()
            self.say(f"step {step} of {self._total}: {text}")

    def say(self, line: str) -> None:
        """Print a line of its own."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def steps_bar(total: int, *, quiet: bool) -> Iterator[StepsBar]:
    """Show progress while the block runs."""
    if quiet or not sys.stderr.isatty():
        yield StepsBar(None, total, quiet=quiet)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps  {task.description}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield StepsBar(bar, total, quiet=False)


def plot_losses(metrics: Path, image: Path) -> None:
    """Plot every loss term over the steps, and below it what validations gave.

    Raises:
        TrainingError: matplotlib is not installed.
        OutputError: the image cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainingError(_missing("matplotlib", "plots")) from error
    lines = read_metrics(metrics)
    steps = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "validation" in line]
    figure = Figure(figsize=(9, 7 if validations else 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 if validations else 1, 1, sharex=True, squeeze=False)[:, 0]
    window = max(1, round(len(steps) * _SMOOTHING))
    places = [line["step"] for line in steps]
    for name in [key for key in (steps[0] if steps else {}) if key.startswith("loss")]:
        values = _smoothed([line[name] for line in steps], window)
        axes[0].plot(places, values, label=name, linewidth=1.8 if name == "loss" else 1.0)
    axes[0].set_ylabel(f"loss (mean of {window} steps)" if window > 1 else "loss")
    # A term may be exactly 0, where a logarithm has no place.
    axes[0].set_yscale("symlog", linthresh=1e-3)
    axes[0].grid(alpha=0.3)
    if steps:
        axes[0].legend(fontsize="small")
    for name in validations[0]["validation"] if validations else ():
        figures = [line["validation"].get(name) for line in validations]
        axes[1].plot([line["step"] for line in validations], figures, marker=".", label=name)
    if validations:
        axes[1].set_ylabel("validation")
        axes[1].grid(alpha=0.3)
        axes[1].legend(fontsize="small")
    axes[-1].set_xlabel("step")
    with replacing(image) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _smoothed(values: list[float], window: int) -> list[float]:
    """Mean of each value and those before it, `window` in all where there are so many."""
    sums, smooth = 0.0, []
    for index, value in enumerate(values):
        sums += value - (values[index - window] if index >= window else 0.0)
        smooth.append(sums / min(index + 1, window))
    return smooth


def _board(path: Path, step: int) -> SummaryWriter:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise TrainingError(
            _missing("tensorboard", "event files") + ", or leave them out with --set "
            "tensorboard=false"
        ) from error
    # Points of steps that will come again are struck out.
    return SummaryWriter(str(path), purge_step=step + 1 if step else None)


def _missing(package: str, what: str) -> str:
    return f"{what} need {package}: pip install '.[train]'"


def _line(content: Mapping[str, Any]) -> str:
    # Null where a number is not finite, as the norm of fp16's first gradients: JSON has no other.
    return msgspec.json.encode(content).decode() + "\n"
