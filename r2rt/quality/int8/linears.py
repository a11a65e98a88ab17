"""Finds the linear layers of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from r2rt.model.onnx_graph import Node, OnnxGraph

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


def find_linears(graph: OnnxGraph) -> list[Linear]:
    """Return the linear layers of a graph in the order that they run."""
    return _Finder(graph).linears()


class _Finder:
    def __init__(self, graph: OnnxGraph) -> None:
        self.nodes = graph.nodes
        self.shapes = {name: array.shape for name, array in graph.constants.items()}
        self.producers = {output: node for node in self.nodes for output in node.outputs}
        self.outputs = graph.outputs
        self.bytes = graph.byte_inputs
        self.consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                self.consumers.setdefault(name, []).append(node)

    def linears(self) -> list[Linear]:
        found: list[Linear] = []
        by_output: dict[str, str] = {}
        names: set[str] = set()
        for node in self.nodes:
            if not self._is_linear(node):
                continue
            activations, weight = node.inputs
            product = node.outputs[0]
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

    def _is_linear(self, node: Node) -> bool:
        if node.op_type != "MatMul":
            return False
        activations, weight = node.inputs
        return len(self.shapes.get(weight, ())) == 2 and activations not in self.shapes

    def _bias(self, product: str) -> tuple[str | None, str]:
        node = self._only_consumer(product)
        if node is not None and node.op_type == "Add":
            other = node.inputs[1] if node.inputs[0] == product else node.inputs[0]
            if len(self.shapes.get(other, ())) == 1:
                return other, node.outputs[0]
        return None, product

    def _norm(self, activations: str) -> tuple[str, str, str] | None:
        node = self.producers.get(activations)
        if (
            node is None
            or node.op_type != "LayerNormalization"
            or len(node.inputs) < 3
            or self._only_consumer(activations) is None
        ):
            return None
        return activations, node.inputs[1], node.inputs[2]

    def _values(self, activations: str, layers: Mapping[str, str]) -> str | None:
        """Return the layer that made the values: attention, its heads put side by side again."""
        node = self._behind_shapes(activations)
        if node is None or node.op_type != "MatMul" or node.inputs[1] in self.shapes:
            return None
        split = self._behind_shapes(node.inputs[1])
        if split is None or split.op_type != "Split" or len(split.outputs) != 3:
            return None
        name = node.inputs[1]
        while (producer := self.producers[name]) is not split:
            name = producer.inputs[0]
        if name != split.outputs[2] or self._only_consumer(split.inputs[0]) is None:
            return None
        return layers.get(split.inputs[0])

    def _behind_shapes(self, name: str) -> Node | None:
        """Return what computes `name` before it was reshaped, if no one else reads it."""
        while self._only_consumer(name) is not None:
            node = self.producers.get(name)
            if node is None or node.op_type not in _SHAPE_ONLY:
                return node
            name = node.inputs[0]
        return None

    def _are_pixels(self, name: str) -> bool:
        while (node := self.producers.get(name)) is not None:
            if node.op_type not in {*_SHAPE_ONLY, "Slice", "Cast"}:
                return False
            name = node.inputs[0]
        return name in self.bytes

    def _only_consumer(self, name: str) -> Node | None:
        consumers = self.consumers.get(name, [])
        return consumers[0] if len(consumers) == 1 and name not in self.outputs else None
