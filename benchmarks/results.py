"""What a benchmark has found."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = ["Agreement", "Results", "Row", "Skip", "Summary", "Target", "Value", "summarize"]

Value: TypeAlias = float | int | str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Seconds of repeated runs.

    Attributes:
        p50_s: the median.
        p95_s: the 95th percentile, between the two nearest runs in proportion.
        min_s: the fastest run.
        samples_s: every run, in order.
    """

    p50_s: float
    p95_s: float
    min_s: float
    samples_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the result.

    Attributes:
        group: what it is compared within.
        name: the case.
        seconds: its timing; None where something else than time is measured.
        speedup: how many times as fast as the group's baseline, paired; None without a baseline.
        values: further columns, by heading.
    """

    group: str
    name: str
    seconds: Summary | None = None
    speedup: float | None = None
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """An assertion about outputs that held before its group was timed."""

    group: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A case that was not measured, and why."""

    group: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure that the project promises, and what was measured.

    Attributes:
        what: the promise.
        value: what was measured.
        limit: the bound.
        sense: whether `value` must be at least or at most `limit`.
    """

    what: str
    value: float
    limit: float
    sense: Literal[">=", "<="]

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.value >= self.limit if self.sense == ">=" else self.value <= self.limit


class Results:
    """All that a benchmark has found; tables and plots are made of it.

    Args:
        name: the benchmark's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[Row] = []
        self.agreements: list[Agreement] = []
        self.skips: list[Skip] = []
        self.targets: list[Target] = []


def summarize(samples_s: Sequence[float]) -> Summary:
    """Return median, 95th percentile and minimum of at least one run."""
    ordered = sorted(samples_s)
    place = 0.95 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return Summary(
        p50_s=statistics.median(ordered),
        p95_s=ordered[low] + (place - low) * (ordered[high] - ordered[low]),
        min_s=ordered[0],
        samples_s=tuple(samples_s),
    )
