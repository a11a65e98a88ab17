"""The towers' linear layers to int8 as TensorRT takes it: symmetric QuantizeLinear pairs.

Both sides of a product are int8 with zero point 0, weights with a scale a column, activations with
one fixed by calibration. Only the blocks' four linear layers are quantised: they are nearly all of
the work. Scores and values of attention stay fp16, or it would not fuse; pixels have 256 levels and
no sign; the maps behind the towers are small and feed the answers.

Channels that reach far are evened out where that costs nothing: γ and β of the LayerNormalization
before are divided by t, the weight's rows multiplied by it, t = max|x|^α / max|W|^(1-α)
(SmoothQuant, Xiao et al., ICML 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.half import fold_transposed_weights
from r2rt.model.onnx_graph import OnnxGraph
from r2rt.quality.int8 import Linear, Samples, collect, find_linears

__all__ = ["quantize_symmetric"]

Floats = NDArray[np.float32]

_BLOCKS = "blocks."
_ALPHAS = (0.5, 0.75)
# Shares of the calibration's range that the codes cover; what lies beyond is cut off.
_SHARES = (1.0, 0.85)
_COLUMNS = 256
_SMALLEST = np.float32(np.finfo(np.float16).smallest_subnormal)


def quantize_symmetric(
    model: onnx.ModelProto, runs: Sequence[Mapping[str, NDArray[Any]]]
) -> onnx.ModelProto:
    """Return the graph with the linear layers of its transformer blocks in int8.

    Args:
        model: the fp32 graph; it is left as it is.
        runs: inputs to calibrate on.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    fold_transposed_weights(quantized)
    graph = OnnxGraph.parse(quantized.SerializeToString())
    linears = [x for x in find_linears(graph) if x.name.startswith(_BLOCKS)]
    if not linears:
        return quantized
    samples = collect(graph, linears, runs)
    editor = _Editor(quantized)
    for linear in linears:
        editor.quantize(linear, samples[linear.name])
    editor.finish()
    onnx.checker.check_model(quantized)
    return quantized


class _Editor:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.weights = {x.name: x for x in model.graph.initializer}
        self.nodes = {x.output[0]: x for x in model.graph.node}
        self.before: dict[str, list[onnx.NodeProto]] = {}

    def quantize(self, linear: Linear, samples: Samples) -> None:
        weight = self.value(linear.weight)
        divisors, scale = _fit(weight, samples, foldable=linear.norm is not None)
        if linear.norm is not None and divisors is not None:
            norm = self.nodes[linear.norm[0]]
            for index in (1, 2):
                array = self.value(norm.input[index]) / divisors
                norm.input[index] = self.add(f"{linear.name}.norm.{index}", array)
            weight = weight * divisors[:, None]
        codes, scales = _codes(weight)
        step = self.add(f"{linear.name}.step", np.float32(scale))
        zero = self.add(f"{linear.name}.zero", np.int8(0))
        columns = [
            self.add(f"{linear.name}.codes", codes),
            self.add(f"{linear.name}.scales", scales),
            self.add(f"{linear.name}.zeros", np.zeros(len(scales), np.int8)),
        ]
        rounded, read, matrix = (f"{linear.name}.{x}" for x in ("rounded", "read", "matrix"))
        product = self.nodes[linear.product]
        self.before[linear.product] = [
            helper.make_node("QuantizeLinear", [product.input[0], step, zero], [rounded]),
            helper.make_node("DequantizeLinear", [rounded, step, zero], [read]),
            helper.make_node("DequantizeLinear", columns, [matrix], axis=1),
        ]
        product.input[0], product.input[1] = read, matrix

    def finish(self) -> None:
        nodes = []
        for node in self.graph.node:
            nodes += [*self.before.get(node.output[0], ()), node]
        read = {name for node in nodes for name in node.input}
        kept = [x for name, x in self.weights.items() if name in read]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(nodes)
        self.graph.initializer.extend(kept)

    def value(self, name: str) -> Floats:
        return np.asarray(numpy_helper.to_array(self.weights[name]), dtype=np.float32)

    def add(self, name: str, value: NDArray[Any] | np.generic) -> str:
        self.weights[name] = numpy_helper.from_array(np.asarray(value), name)
        return name


def _fit(weight: Floats, samples: Samples, *, foldable: bool) -> tuple[Floats | None, float]:
    """Return what to divide the input's channels by, and the step of their codes."""
    rows = np.concatenate([samples.typical, samples.extreme])
    largest = np.maximum(np.abs(weight).max(axis=1), 1e-5)
    # Every n-th column is enough to estimate the error of all.
    weight = weight[:, :: max(1, weight.shape[1] // _COLUMNS)]
    want = rows @ weight
    reach = np.maximum(np.maximum(-samples.low, samples.high), 1e-5)
    candidates: list[Floats | None] = [None]
    if foldable:
        for alpha in _ALPHAS:
            t = reach**alpha / largest ** (1 - alpha)
            candidates.append((t / np.exp(np.log(t).mean())).astype(np.float32))
    tried = []
    for divisors in candidates:
        t = np.float32(1) if divisors is None else divisors
        codes, scales = _codes(weight if divisors is None else weight * divisors[:, None])
        matrix = codes * scales
        for share in _SHARES:
            step = _half(np.float32(share * float((reach / t).max()) / 127))
            read = np.rint(rows / t / step).clip(-127, 127) * step
            error = float(np.square(read @ matrix - want, dtype=np.float64).sum())
            tried.append((error, divisors, float(step)))
    _, divisors, step_size = min(tried, key=lambda found: found[0])
    return divisors, step_size


def _codes(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return codes (I, O) and scales (O,) of a weight."""
    scales = _half(np.abs(weight).max(axis=0) / np.float32(127))
    return np.rint(weight / scales).clip(-127, 127).astype(np.int8), scales


def _half(scales: Any) -> Floats:
    """Round to what fp16 holds, since the engine's scales are fp16."""
    return np.maximum(np.asarray(scales, np.float16).astype(np.float32), _SMALLEST)
