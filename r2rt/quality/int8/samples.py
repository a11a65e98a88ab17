"""What the linear layers of a graph read while it runs on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from r2rt.model.onnx_graph import OnnxGraph
from r2rt.quality.int8.linears import Linear

__all__ = ["Inputs", "Samples", "collect", "open_session"]

Inputs: TypeAlias = Mapping[str, NDArray[Any]]
Floats: TypeAlias = NDArray[np.float32]

# Rows kept a layer: enough that their errors are those of all rows to a per cent or two.
_ROWS = 256
_EXTREME_ROWS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """The activations (rows, I) that one layer read.

    Attributes:
        low: (I,) the least value of each channel over all rows.
        high: (I,) the greatest.
        typical: (R, I) rows taken evenly.
        extreme: (E, I) the rows with the greatest magnitudes, which ranges must not cut.
        rows: rows in all, a run.
    """

    low: Floats
    high: Floats
    typical: Floats
    extreme: Floats
    rows: int


def collect(
    graph: OnnxGraph, linears: Sequence[Linear], runs: Sequence[Inputs]
) -> dict[str, Samples]:
    """Run a graph on calibration data and return what each layer read, by the layer's name."""
    names = list(dict.fromkeys(linear.input for linear in linears))
    run = open_session(graph, names)
    gatherers = {name: _Gatherer(runs=len(runs)) for name in names}
    for inputs in runs:
        for gatherer, values in zip(gatherers.values(), run(inputs), strict=True):
            gatherer.add(values.reshape(-1, values.shape[-1]))
    found = {name: gatherer.samples() for name, gatherer in gatherers.items()}
    return {linear.name: found[linear.input] for linear in linears}


def open_session(
    graph: OnnxGraph, outputs: Iterable[str]
) -> Callable[[Inputs], list[NDArray[Any]]]:
    """Return a function that runs a graph on the CPU and returns the outputs named.

    Products of bytes are exact on every processor. By default those of x86 without VNNI or AMX
    saturate, and a bundle would depend on the machine that made it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    return graph.runner(outputs, options)


class _Gatherer:
    def __init__(self, *, runs: int) -> None:
        self._rows_a_run = -(-_ROWS // runs)
        self._low: Floats | None = None
        self._high: Floats | None = None
        self._typical: list[Floats] = []
        self._extreme: Floats | None = None
        self._rows: list[int] = []

    def add(self, rows: Floats) -> None:
        low, high = rows.min(axis=0), rows.max(axis=0)
        self._low = low if self._low is None else np.minimum(self._low, low)
        self._high = high if self._high is None else np.maximum(self._high, high)
        # Half a step in, so that a token that leads every frame is not taken each time.
        count = min(self._rows_a_run, len(rows))
        steps = (np.arange(count) + 0.5) / count
        self._typical.append(rows[(steps * len(rows)).astype(int)].copy())
        pool = rows if self._extreme is None else np.concatenate([self._extreme, rows])
        order = np.argsort(-np.abs(pool).max(axis=1), kind="stable")
        self._extreme = pool[order[:_EXTREME_ROWS]].copy()
        self._rows.append(len(rows))

    def samples(self) -> Samples:
        assert self._low is not None
        assert self._high is not None
        assert self._extreme is not None
        return Samples(
            low=self._low,
            high=self._high,
            typical=np.concatenate(self._typical),
            extreme=self._extreme,
            rows=max(self._rows),
        )
