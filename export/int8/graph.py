"""Puts the int8 form of linear layers in place in an ONNX graph.

An int8 layer is QuantizeLinear and ONNX Runtime's MatMulIntegerToFloat, bias included. (The same
as QuantizeLinear, DequantizeLinear and MatMul, which ONNX Runtime fuses to the same operator, takes
a pass over the output more for the bias.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.int8.fit import Fit
from export.int8.linears import Linear, find_linears

__all__ = ["quantize_graph"]

Floats = NDArray[np.float32]

_MICROSOFT = "com.microsoft"
_TINY = 1e-12


def quantize_graph(
    model: onnx.ModelProto, fits: Mapping[str, Fit], *, tables: Collection[str] = ()
) -> onnx.ModelProto:
    """Return a copy of a graph in which the layers named in `fits` compute in int8.

    Args:
        model: the fp32 graph.
        fits: how to quantise each layer, by its name.
        tables: names of the matrices (V, C) of embeddings that are stored in int8, a scale a row.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    linears = {linear.name: linear for linear in find_linears(model)}
    editor = _Editor(model)
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
    return model


class _Editor:
    """Changes a graph; `finish` writes it, without what is no longer read."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = {item.name: item for item in model.graph.initializer}
        self._nodes = {output: node for node in model.graph.node for output in node.output}
        self._replaced: dict[str, list[onnx.NodeProto]] = {}

    def divide_channels(self, linear: Linear, fit: Fit) -> None:
        """Divide the channels that a layer reads by `fit.divisors`, where γ and β make them."""
        assert linear.norm is not None
        assert fit.divisors is not None
        output, gamma, beta = linear.norm
        node = self._nodes[output]
        for index, name in ((1, gamma), (2, beta)):
            values = self.value(name) / fit.divisors
            node.input[index] = self._add(f"{linear.name}.norm.{index}", values)

    def scale_outputs(self, linear: Linear, factors: Floats) -> None:
        """Multiply the outputs of a layer that stays in fp32."""
        node = self._nodes[linear.product]
        node.input[1] = self._add(f"{linear.name}.weight", self.value(linear.weight) * factors)
        if linear.bias is not None:
            add = self._nodes[linear.output]
            index = list(add.input).index(linear.bias)
            add.input[index] = self._add(f"{linear.name}.bias'", self.value(linear.bias) * factors)

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
            nodes.append(helper.make_node("Mul", [activations, inverse], [f"{at}.divided"]))
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
            helper.make_node("QuantizeLinear", [activations, scale, zero], [f"{at}.input"]),
            helper.make_node("MatMulIntegerToFloat", inputs, [linear.output], domain=_MICROSOFT),
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
        for node in self._model.graph.node:
            if node.op_type == "Gather" and node.input[0] == table:
                ids, out = node.input[1], node.output[0]
                parts = [f"{out}.{part}" for part in ("float", "scales", "codes")]
                self._replaced[out] = [
                    helper.make_node("Gather", [codes, ids], [parts[2]]),
                    helper.make_node("Cast", [parts[2]], [parts[0]], to=onnx.TensorProto.FLOAT),
                    helper.make_node("Gather", [factors, ids], [parts[1]]),
                    helper.make_node("Mul", parts[:2], [out]),
                ]

    def finish(self) -> None:
        """Write nodes and constants."""
        graph = self._model.graph
        nodes = [new for node in graph.node for new in self._replaced.get(node.output[0], [node])]
        read = {name for node in nodes for name in node.input}
        del graph.node[:]
        del graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(item for name, item in self._constants.items() if name in read)
        if all(entry.domain != _MICROSOFT for entry in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))

    def value(self, name: str) -> Floats:
        """Return a constant."""
        return np.asarray(numpy_helper.to_array(self._constants[name]), dtype=np.float32)

    def _add(self, name: str, value: NDArray[Any] | np.generic) -> str:
        self._constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name
