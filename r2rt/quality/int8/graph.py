"""Puts the int8 form of linear layers in place in an ONNX graph.

An int8 layer is QuantizeLinear and ONNX Runtime's MatMulIntegerToFloat, bias included. (The same
as QuantizeLinear, DequantizeLinear and MatMul, which ONNX Runtime fuses to the same operator, takes
a pass over the output more for the bias.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2rt.model.onnx_graph import Node, OnnxGraph, int_attribute, of_domain
from r2rt.quality.int8.fit import Fit
from r2rt.quality.int8.linears import Linear, find_linears

__all__ = ["quantize_graph"]

Floats = NDArray[np.float32]

_MICROSOFT = "com.microsoft"
_FLOAT = 1  # TensorProto.FLOAT
_TINY = 1e-12


def quantize_graph(
    graph: OnnxGraph, fits: Mapping[str, Fit], *, tables: Collection[str] = ()
) -> OnnxGraph:
    """Return a copy of a graph in which the layers named in `fits` compute in int8.

    Args:
        graph: the fp32 graph.
        fits: how to quantise each layer, by its name.
        tables: names of the matrices (V, C) of embeddings that are stored in int8, a scale a row.
    """
    graph = graph.copy()
    linears = {linear.name: linear for linear in find_linears(graph)}
    editor = _Editor(graph)
    factors: dict[str, Floats] = {}
    for name, fit in fits.items():
        linear = linears[name]
        if fit.divisors is None or fit.explicit:
            continue
        if linear.values is None:
            editor.divide_channels(linear, fit)
        else:
            width = len(fit.divisors)
            factors[linear.values] = np.ones(3 * width, dtype=np.float32)
            factors[linear.values][2 * width :] = 1 / fit.divisors
    for name, fit in fits.items():
        editor.quantize(linears[name], fit, factors.pop(name, None))
    for name, values in factors.items():
        editor.scale_outputs(linears[name], values)
    for table in tables:
        editor.quantize_table(table)
    editor.finish()
    return graph


class _Editor:
    """Changes a graph; `finish` writes it, without what is no longer read."""

    def __init__(self, graph: OnnxGraph) -> None:
        self._graph = graph
        self._nodes = {output: node for node in graph.nodes for output in node.outputs}
        self._replaced: dict[str, list[Node]] = {}

    def divide_channels(self, linear: Linear, fit: Fit) -> None:
        """Divide the channels that a layer reads by `fit.divisors`, where γ and β make them."""
        assert linear.norm is not None
        assert fit.divisors is not None
        output, gamma, beta = linear.norm
        node = self._nodes[output]
        for index, name in ((1, gamma), (2, beta)):
            values = self.value(name) / fit.divisors
            node.inputs[index] = self._add(f"{linear.name}.norm.{index}", values)

    def scale_outputs(self, linear: Linear, factors: Floats) -> None:
        """Multiply the outputs of a layer that stays in fp32."""
        node = self._nodes[linear.product]
        node.inputs[1] = self._add(f"{linear.name}.weight", self.value(linear.weight) * factors)
        if linear.bias is not None:
            add = self._nodes[linear.output]
            index = add.inputs.index(linear.bias)
            add.inputs[index] = self._add(f"{linear.name}.bias'", self.value(linear.bias) * factors)

    def quantize(self, linear: Linear, fit: Fit, factors: Floats | None) -> None:
        """Replace a layer, and multiply its outputs by `factors`, if there are any."""
        codes, scales = fit.quantize_weight(self.value(linear.weight))
        bias = fit.correction
        if linear.bias is not None:
            bias = bias + self.value(linear.bias)
        if factors is not None:
            scales, bias = scales * factors, bias * factors
        at, activations = f"{linear.name}.int8", linear.input
        nodes = []
        if fit.explicit:
            assert fit.divisors is not None
            inverse = self._add(f"{at}.input_factors", 1 / fit.divisors)
            nodes.append(_node("Mul", [activations, inverse], f"{at}.divided"))
            activations = f"{at}.divided"
        scale = self._add(f"{at}.input_scale", np.float32(fit.scale))
        zero = self._add(f"{at}.input_zero", np.uint8(fit.zero))
        inputs = [
            f"{at}.input",
            self._add(f"{at}.weight", codes),
            scale,
            self._add(f"{at}.weight_scale", scales.astype(np.float32)),
            zero,
            self._add(f"{at}.weight_zero", np.zeros(len(scales), dtype=np.int8)),
            self._add(f"{at}.bias", bias.astype(np.float32)),
        ]
        nodes += [
            _node("QuantizeLinear", [activations, scale, zero], f"{at}.input"),
            _node("MatMulIntegerToFloat", inputs, linear.output, of_domain(_MICROSOFT)),
        ]
        self._replaced[linear.product] = nodes
        if linear.output != linear.product:
            self._replaced[linear.output] = []

    def quantize_table(self, table: str) -> None:
        """Store an embedding in int8, a scale a row; what is gathered is multiplied out."""
        values = self.value(table)
        scales = np.maximum(np.abs(values).max(axis=1, keepdims=True), _TINY) / 127
        codes = self._add(f"{table}.codes", np.rint(values / scales).astype(np.int8))
        factors = self._add(f"{table}.scales", scales.astype(np.float32))
        for node in self._graph.nodes:
            if node.op_type == "Gather" and node.inputs[0] == table:
                ids, out = node.inputs[1], node.outputs[0]
                parts = [f"{out}.{part}" for part in ("float", "scales", "codes")]
                self._replaced[out] = [
                    _node("Gather", [codes, ids], parts[2]),
                    _node("Cast", [parts[2]], parts[0], int_attribute("to", _FLOAT)),
                    _node("Gather", [factors, ids], parts[1]),
                    _node("Mul", parts[:2], out),
                ]

    def finish(self) -> None:
        """Put the new nodes in place, and drop the constants that no node reads."""
        graph = self._graph
        graph.nodes = [
            new for node in graph.nodes for new in self._replaced.get(node.outputs[0], [node])
        ]
        read = {name for node in graph.nodes for name in node.inputs}
        graph.constants = {name: x for name, x in graph.constants.items() if name in read}
        graph.use_domain(_MICROSOFT, 1)

    def value(self, name: str) -> Floats:
        """Return a constant."""
        return np.asarray(self._graph.constants[name], dtype=np.float32)

    def _add(self, name: str, value: NDArray[Any] | np.generic) -> str:
        self._graph.constants[name] = np.asarray(value)
        return name


def _node(op_type: str, inputs: list[str], output: str, rest: bytes = b"") -> Node:
    return Node(op_type=op_type, inputs=inputs, outputs=[output], rest=rest)
