"""Finds the linear layers of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

__all__ = ["Linear", "find_linears"]

# What an attention's values pass through channel by channel: a scale on them comes out unchanged.
_SHAPE_ONLY = ("Reshape", "Transpose", "Unsqueeze", "Squeeze")


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A product of activations with a constant matrix, and the bias added to it.

    Attributes:
        name: its path in the model, such as `blocks.3.fc`, or its matrix's name.
        input: name of the activations.
        output: name of the product, the bias included where there is one.
        product: name of the product alone.
        weight: name of the matrix (I, O).
        bias: name of the bias (O,), if there is one.
        norm: names of the output, γ and β of the LayerNormalization whose result this layer alone
            reads: its channels can be scaled for nothing.
        values: name of the layer whose last third of outputs are the values of the attention whose
            result this layer alone reads: their channels can be scaled for nothing, too.
        pixels: whether the activations are bytes, 0 to 255, whatever the calibration saw.
    """

    name: str
    input: str
    output: str
    product: str
    weight: str
    bias: str | None
    norm: tuple[str, str, str] | None
    values: str | None
    pixels: bool


def find_linears(model: onnx.ModelProto) -> list[Linear]:
    """Return the linear layers of a graph in the order that they run."""
    return _Finder(model).linears()


class _Finder:
    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.nodes = list(graph.node)
        self.shapes = {item.name: tuple(item.dims) for item in graph.initializer}
        self.producers = {output: node for node in self.nodes for output in node.output}
        self.outputs = {item.name for item in graph.output}
        self.bytes = {
            item.name
            for item in graph.input
            if item.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        }
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    def linears(self) -> list[Linear]:
        found: list[Linear] = []
        by_output: dict[str, str] = {}
        names: set[str] = set()
        for node in self.nodes:
            if not self._is_linear(node):
                continue
            activations, weight = node.input
            product = node.output[0]
            bias, output = self._bias(product)
            name = bias.removesuffix(".bias") if bias else weight
            while name in names:
                name += "'"
            names.add(name)
            by_output[output] = name
            found.append(
                Linear(
                    name=name,
                    input=activations,
                    output=output,
                    product=product,
                    weight=weight,
                    bias=bias,
                    norm=self._norm(activations),
                    values=self._values(activations, by_output),
                    pixels=self._are_pixels(activations),
                )
            )
        return found

    def _is_linear(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "MatMul":
            return False
        activations, weight = node.input
        return len(self.shapes.get(weight, ())) == 2 and activations not in self.shapes

    def _bias(self, product: str) -> tuple[str | None, str]:
        node = self._only_consumer(product)
        if node is not None and node.op_type == "Add":
            other = node.input[1] if node.input[0] == product else node.input[0]
            if len(self.shapes.get(other, ())) == 1:
                return other, node.output[0]
        return None, product

    def _norm(self, activations: str) -> tuple[str, str, str] | None:
        node = self.producers.get(activations)
        if (
            node is None
            or node.op_type != "LayerNormalization"
            or len(node.input) < 3
            or self._only_consumer(activations) is None
        ):
            return None
        return activations, node.input[1], node.input[2]

    def _values(self, activations: str, layers: Mapping[str, str]) -> str | None:
        """Return the layer that made the values: attention, its heads put side by side again."""
        node = self._behind_shapes(activations)
        if node is None or node.op_type != "MatMul" or node.input[1] in self.shapes:
            return None
        split = self._behind_shapes(node.input[1])
        if split is None or split.op_type != "Split" or len(split.output) != 3:
            return None
        name = node.input[1]
        while (producer := self.producers[name]) is not split:
            name = producer.input[0]
        if name != split.output[2] or self._only_consumer(split.input[0]) is None:
            return None
        return layers.get(split.input[0])

    def _behind_shapes(self, name: str) -> onnx.NodeProto | None:
        """Return what computes `name` before it was reshaped, if no one else reads it."""
        while self._only_consumer(name) is not None:
            node = self.producers.get(name)
            if node is None or node.op_type not in _SHAPE_ONLY:
                return node
            name = node.input[0]
        return None

    def _are_pixels(self, name: str) -> bool:
        while (node := self.producers.get(name)) is not None:
            if node.op_type not in {*_SHAPE_ONLY, "Slice", "Cast"}:
                return False
            name = node.input[0]
        return name in self.bytes

    def _only_consumer(self, name: str) -> onnx.NodeProto | None:
        consumers = self.consumers.get(name, [])
        return consumers[0] if len(consumers) == 1 and name not in self.outputs else None
