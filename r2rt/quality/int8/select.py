"""Which layers become int8: all of them, but for those that hurt most for what they save."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2rt.model.onnx_graph import OnnxGraph
from r2rt.quality.agreement import relative_error
from r2rt.quality.int8.fit import Fit, fit_linear
from r2rt.quality.int8.graph import quantize_graph
from r2rt.quality.int8.linears import Linear, find_linears
from r2rt.quality.int8.samples import Inputs, Samples, collect, open_session

__all__ = ["Selection", "select"]

# Below this many weights a layer is not worth an error of its own.
_SMALLEST = 1 << 12
# Cosines of CLIP's embedding are sensitive to rounding, so its projection is kept exact.
_EXACT = "projection."
# Beyond this share of the work, leaving out one layer after the other does not make a fast model.
_MOST_KEPT = 0.6


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """A quantised graph and how it was chosen.

    Attributes:
        graph: the graph.
        error: relative error of its outputs on calibration data; the worst CLIP layer's.
        kept: names of the layers that stay in fp32, the most harmful for their cost first.
        smoothed: how many layers have their input's channels divided.
    """

    graph: OnnxGraph
    error: float
    kept: tuple[str, ...]
    smoothed: int


def select(
    graph: OnnxGraph,
    runs: Sequence[Inputs],
    *,
    output: str,
    features: int,
    budget: float,
    measured: int | None = None,
    smooth: bool = True,
    leave_out: bool = True,
    say: Callable[[str], None],
) -> Selection:
    """Quantise a graph so that its output (B, K, ..., C) errs by no more than `budget` a layer K.

    If all layers in int8 err more, layers are left out by the square of their error for what they
    cost. Independent errors add up in squares, so it is known when the rest keeps to the budget;
    what it really errs is measured in the end.

    Args:
        graph: the fp32 graph.
        runs: inputs to calibrate on.
        output: name of the output that is measured.
        features: how many of the output's last dimension are measured.
        budget: the relative error that is aimed at, see `r2rt.quality.agreement.relative_error`.
        measured: how many of the runs errors are measured on; all by default.
        smooth: whether channels may be divided.
        leave_out: whether layers may stay in fp32.
        say: called with one line for each step.
    """
    chooser = _Chooser(graph, runs, output=output, features=features, measured=measured)
    chooser.fit(smooth=smooth)
    everything = chooser.names
    error = chooser.error(everything)
    say(f"all {len(everything)} layers in int8: {error:.2%} off")
    kept: list[str] = []
    if leave_out and error > budget:
        for name in _most_harmful(chooser, error, budget):
            if chooser.share([*kept, name]) > _MOST_KEPT:
                break
            kept.append(name)
        error = chooser.error(_without(everything, kept))
        say(f"all but {', '.join(kept)}: {error:.2%} off")
    chosen = _without(everything, kept)
    return Selection(
        graph=chooser.build(chosen),
        error=error,
        kept=tuple(kept),
        smoothed=chooser.smoothed(chosen),
    )


class _Chooser:
    """Builds and measures forms of one graph."""

    def __init__(
        self,
        graph: OnnxGraph,
        runs: Sequence[Inputs],
        *,
        output: str,
        features: int,
        measured: int | None,
    ) -> None:
        self._graph = graph
        self._runs = runs
        self._measured = runs[:measured]
        self._output = output
        self._features = features
        constants = graph.constants
        self._linears: dict[str, Linear] = {}
        self._weights = {}
        for linear in find_linears(graph):
            weight = constants[linear.weight]
            if weight.size >= _SMALLEST and not linear.name.startswith(_EXACT):
                self._linears[linear.name] = linear
                self._weights[linear.name] = np.asarray(weight, dtype=np.float32)
        tables = [
            node.inputs[0]
            for node in graph.nodes
            if node.op_type == "Gather"
            and node.inputs[0] in constants
            and constants[node.inputs[0]].ndim == 2
            and constants[node.inputs[0]].dtype == np.float32  # others hold indices
            and constants[node.inputs[0]].size >= _SMALLEST
        ]
        self._tables = tuple(dict.fromkeys(tables))
        self._sizes = {name: float(constants[name].size) for name in self._tables}
        self._costs: dict[str, float] = {}
        self._fits: dict[str, Fit] = {}
        self._want = self._run(graph)

    def fit(self, *, smooth: bool) -> None:
        """Fit every layer by itself; what it costs is its multiplications."""
        samples = collect(self._graph, list(self._linears.values()), self._runs)
        for name, linear in self._linears.items():
            found: Samples = samples[name]
            self._fits[name] = fit_linear(
                self._weights[name],
                found,
                foldable=linear.norm is not None or linear.values in self._linears,
                pixels=linear.pixels,
                smooth=smooth,
            )
            self._costs[name] = float(self._weights[name].size) * found.rows
        # A table is not multiplied, but kept in memory like a matrix, and weighs as much.
        rows = max((found.rows for found in samples.values()), default=1)
        for name, size in self._sizes.items():
            self._costs[name] = size * rows

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all that may be quantised, in the order that it runs."""
        return (*self._tables, *self._fits)

    def build(self, names: Sequence[str]) -> OnnxGraph:
        """Return the graph with these layers in int8."""
        fits = {name: fit for name, fit in self._fits.items() if name in names}
        tables = [name for name in self._tables if name in names]
        return quantize_graph(self._graph, fits, tables=tables)

    def error(self, names: Sequence[str]) -> float:
        """Return the worst layer's relative error with these layers in int8."""
        got = self._run(self.build(names))
        worst = 0.0
        for layer in range(got[0].shape[1]):
            pairs = zip(got, self._want, strict=True)
            parts = [(x[:, layer].reshape(-1, x.shape[-1]), y[:, layer]) for x, y in pairs]
            want = np.concatenate([y.reshape(-1, y.shape[-1]) for _, y in parts])
            worst = max(worst, relative_error(np.concatenate([x for x, _ in parts]), want))
        return worst

    def cost(self, names: Sequence[str]) -> float:
        """Return what these layers cost: multiplications, and memory weighed like them."""
        return sum(self._costs[name] for name in names)

    def share(self, names: Sequence[str]) -> float:
        """Return how much of all cost these layers are."""
        return self.cost(names) / self.cost(self.names)

    def smoothed(self, names: Sequence[str]) -> int:
        """Return how many of these layers have their input's channels divided."""
        return sum(fit.divisors is not None for name, fit in self._fits.items() if name in names)

    def _run(self, graph: OnnxGraph) -> list[NDArray[np.floating[Any]]]:
        run = open_session(graph, [self._output])
        return [run(inputs)[0][..., : self._features] for inputs in self._measured]


def _most_harmful(chooser: _Chooser, error: float, budget: float) -> Iterator[str]:
    """Yield layers until the others keep to the budget, those with most error for their cost first.

    Groups of layers are measured, and the most harmful one is halved until it is a single layer.
    """
    names = chooser.names
    groups = [(-math.inf, names, error)]
    while groups and math.hypot(*(harm for _, _, harm in groups)) > budget:
        _, group, _ = heapq.heappop(groups)
        if len(group) == 1:
            yield group[0]
            continue
        middle = len(group) // 2
        for half in (group[:middle], group[middle:]):
            harm = chooser.error(half)
            # The least comes first off the heap.
            heapq.heappush(groups, (-(harm**2) / chooser.cost(half), half, harm))


def _without(names: Sequence[str], kept: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in kept)
