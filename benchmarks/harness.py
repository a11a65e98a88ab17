"""The one harness: outputs compared, then cases timed in turns, then a table, JSON and a plot.

Cases of a group are run in rounds, A B C A B C, and a ratio is the median over the rounds of the
ratio within a round: what slows the whole machine for a while slows all of a round alike. Nothing
is timed before its group's agreement has been asserted.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click

from benchmarks.machine import CHECKOUT, describe_commit, describe_machine, describe_versions
from benchmarks.plots import draw_bars
from benchmarks.results import Agreement, Results, Row, Skip, Target, Value, summarize
from benchmarks.tables import print_report

__all__ = [
    "Case",
    "DisagreementError",
    "Options",
    "Report",
    "common_options",
    "paired_ratio",
    "time_cases",
    "timed",
]

SCHEMA = 1


class DisagreementError(AssertionError):
    """What is to be timed does not compute the same as its baseline."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to time: `measure` does it once and returns the seconds it took."""

    name: str
    measure: Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every benchmark takes.

    Attributes:
        quick: sizes that take seconds, for tests of the benchmarks themselves.
        repeats: rounds; None leaves each benchmark its own number.
        out: folder for JSON and plot.
        media: folder where test videos and random models are kept.
        plot: whether a plot is drawn.
    """

    quick: bool
    repeats: int | None
    out: Path
    media: Path
    plot: bool

    def rounds(self, usual: int) -> int:
        """Return how many rounds to run where `usual` is the benchmark's own number."""
        return self.repeats or (2 if self.quick else usual)


def common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `Options`, which the command gets as one argument `options`."""
    import functools
    import tempfile

    @functools.wraps(command)
    def gathered(
        quick: bool, repeats: int | None, out: Path, media: Path, plot: bool, **others: Any
    ) -> None:
        media.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        options = Options(quick=quick, repeats=repeats, out=out, media=media, plot=plot)
        command(options=options, **others)

    folder = click.Path(path_type=Path, file_okay=False)
    decorators = (
        click.option(
            "--quick", is_flag=True, help="Small sizes, in seconds; numbers mean nothing."
        ),
        click.option(
            "--repeats", type=click.IntRange(min=1), help="Rounds, in place of the usual number."
        ),
        click.option(
            "--out",
            type=folder,
            default=CHECKOUT / "benchmarks" / "results",
            help="Folder for JSON and plot.  [default: benchmarks/results]",
        ),
        click.option(
            "--media",
            type=folder,
            default=Path(tempfile.gettempdir()) / "r2rt-benchmarks",
            help="Folder that keeps videos and random models.  [default: in the system's temporary "
            "folder]",
        ),
        click.option("--plot/--no-plot", default=True, help="Draw a plot.  [default: yes]"),
    )
    wrapped: Callable[..., None] = gathered
    for decorator in reversed(decorators):
        wrapped = decorator(wrapped)
    return wrapped


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Return a `measure` that takes the wall-clock time of `work`."""

    def measure() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return measure


def time_cases(
    cases: Sequence[Case], *, repeats: int, warmup: int = 1, pause_s: float = 0.0
) -> dict[str, tuple[float, ...]]:
    """Run all cases in rounds and return each case's seconds by name.

    Args:
        cases: what to run, in this order in every round.
        repeats: rounds that count.
        warmup: rounds before them that do not.
        pause_s: rest before each case.
    """
    samples: dict[str, list[float]] = {case.name: [] for case in cases}
    for turn in range(warmup + repeats):
        for case in cases:
            time.sleep(pause_s)
            seconds = case.measure()
            if turn >= warmup:
                samples[case.name].append(seconds)
    return {name: tuple(values) for name, values in samples.items()}


def paired_ratio(baseline_s: Sequence[float], case_s: Sequence[float]) -> float:
    """Return how many times as fast a case is: the median over rounds of the ratio within one."""
    return statistics.median(base / case for base, case in zip(baseline_s, case_s, strict=True))


class Report(Results):
    """Gathers what a benchmark finds, and writes it.

    Args:
        name: the benchmark's.
        options: what it was called with.
        settings: sizes and inputs that its numbers depend on.
    """

    def __init__(self, name: str, options: Options, **settings: Any) -> None:
        super().__init__(name)
        self.options = options
        self.settings = settings
        self._machine = describe_machine()

    def agree(self, group: str, compare: Callable[[], str]) -> None:
        """Assert that outputs agree; `compare` says how closely, or raises.

        Raises:
            DisagreementError: they do not; nothing of this group may be timed.
        """
        try:
            detail = compare()
        except AssertionError as error:
            raise DisagreementError(f"{group}: outputs disagree, not timed: {error}") from error
        self.agreements.append(Agreement(group=group, detail=detail))
        self.say(f"{group}: {detail}")

    def time(
        self,
        group: str,
        cases: Sequence[Case],
        *,
        agree: Callable[[], str],
        repeats: int,
        warmup: int = 1,
        baseline: str | None = None,
        values: Mapping[str, Mapping[str, Value]] | None = None,
    ) -> dict[str, Row]:
        """Compare, then time a group of cases in turns.

        Args:
            group: heading of the group.
            cases: what to time.
            agree: raises AssertionError unless the cases' outputs agree, and says how closely.
            repeats: rounds that count.
            warmup: rounds before them that do not.
            baseline: the case that speed-ups refer to.
            values: further columns of each case.

        Returns:
            The rows by case.
        """
        self.agree(group, agree)
        samples = time_cases(cases, repeats=repeats, warmup=warmup)
        rows = {}
        for case in cases:
            speedup = None
            if baseline is not None:
                speedup = paired_ratio(samples[baseline], samples[case.name])
            rows[case.name] = self.add(
                Row(
                    group=group,
                    name=case.name,
                    seconds=summarize(samples[case.name]),
                    speedup=speedup,
                    values=(values or {}).get(case.name, {}),
                )
            )
        return rows

    def add(self, row: Row) -> Row:
        """Add a row that was measured otherwise."""
        self.rows.append(row)
        return row

    def skip(self, group: str, name: str, reason: str) -> None:
        """Note, loudly, what is not measured and why."""
        self.skips.append(Skip(group=group, name=name, reason=reason))
        self.say(f"{group}: {name} skipped: {reason}")

    def target(self, what: str, value: float, sense: Literal[">=", "<="], limit: float) -> None:
        """Note a promise and what was measured."""
        self.targets.append(Target(what=what, value=value, limit=limit, sense=sense))

    def say(self, line: str) -> None:
        """Print progress for a person."""
        print(line, file=sys.stderr, flush=True)

    def record(self) -> dict[str, Any]:
        """Return all that was found, ready for JSON."""
        return {
            "schema": SCHEMA,
            "benchmark": self.name,
            "quick": self.options.quick,
            "commit": describe_commit(),
            "machine": self._machine,
            "versions": describe_versions(),
            "settings": {name: _plain(value) for name, value in self.settings.items()},
            "rows": [asdict(row) for row in self.rows],
            "agreements": [asdict(item) for item in self.agreements],
            "skipped": [asdict(item) for item in self.skips],
            "targets": [{**asdict(item), "met": item.met} for item in self.targets],
        }

    def finish(self, draw: Callable[[Results, Path], None] | None = None) -> None:
        """Print the tables, write JSON and the plot, and end stdout with the JSON on one line.

        Args:
            draw: draws the plot; bars of all timed rows by default.
        """
        stem = f"{self.name}.quick" if self.options.quick else self.name
        record = self.record()
        if self.options.plot:
            record["plot"] = self._draw(self.options.out / f"{stem}.png", draw)
        path = self.options.out / f"{stem}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        print_report(self, record)
        print(json.dumps(record), flush=True)

    def _draw(self, path: Path, draw: Callable[[Results, Path], None] | None) -> str | None:
        try:
            (draw or draw_bars)(self, path)
        except ModuleNotFoundError as error:
            self.skip(
                "plot", path.name, f"{error.name} is not installed: pip install 'r2rt[bench]'"
            )
            return None
        return path.name


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
