"""An fp32 graph to mixed precision: fp16 weights and activations, fp32 where fp16 would not do.

Engines are strongly typed, so the graph itself says what runs in which precision:

- products (MatMul, Conv) take and give fp16;
- LayerNormalization, sums, norms, roots and exponentials take and give fp32: squares overflow
  fp16 from 256 on, and the sum over a row loses what is small beside an outlier;
- everything else follows its inputs: fp32 if one of them is fp32, else fp16;
- what depends on sizes alone (positions, indices, masks of rows) is computed in fp32: fp16 counts
  to 2048 only;
- inputs and outputs keep their types, whatever is inside.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError

__all__ = ["fold_transposed_weights", "to_half"]

_HALF: int = TensorProto.FLOAT16
_SINGLE: int = TensorProto.FLOAT
_LARGEST_HALF = float(np.finfo(np.float16).max)

_HALF_OPS = {"Conv", "DequantizeLinear", "MatMul", "QuantizeLinear"}
_SINGLE_OPS = {
    "Exp",
    "LayerNormalization",
    "Reciprocal",
    "ReduceL2",
    "ReduceMean",
    "ReduceSum",
    "Sqrt",
}


def to_half(model: onnx.ModelProto, *, single_inputs: Collection[str] = ()) -> onnx.ModelProto:
    """Return the graph in fp16, but for what must be fp32.

    Args:
        model: an fp32 graph of standard operators, sorted topologically; it is left as it is.
        single_inputs: inputs that are not rounded to fp16 where they enter.

    Raises:
        ExportError: a weight does not fit into fp16.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    fold_transposed_weights(half)
    _Converter(half, single_inputs).convert()
    onnx.checker.check_model(half)
    return half


def fold_transposed_weights(model: onnx.ModelProto) -> None:
    """Replace every Transpose of a weight by the transposed weight, in place."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    folded = [
        node
        for node in model.graph.node
        if node.op_type == "Transpose" and node.input[0] in weights
    ]
    for node in folded:
        (perm,) = (helper.get_attribute_value(x) for x in node.attribute if x.name == "perm")
        array = numpy_helper.to_array(weights[node.input[0]]).transpose(perm)
        model.graph.initializer.append(
            numpy_helper.from_array(np.ascontiguousarray(array), node.output[0])
        )
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [x for x in model.graph.initializer if x.name not in used]:
        model.graph.initializer.remove(tensor)


class _Converter:
    def __init__(self, model: onnx.ModelProto, single_inputs: Collection[str]) -> None:
        self.graph = model.graph
        self.weights = {x.name: x for x in self.graph.initializer if x.data_type == _SINGLE}
        self.floats = {*self.weights, *_float_values(model)}
        self.outputs = {x.name for x in self.graph.output}
        self.nodes: list[onnx.NodeProto] = []
        self.new_weights: list[TensorProto] = []
        # Values that depend on what is in an input, not on its size alone.
        self.by_input = {x.name for x in self.graph.input}
        # The precision in which a float value goes on, and its name in each one that was made.
        self.precision: dict[str, int] = {}
        self.names: dict[tuple[str, int], str] = {}
        for value in self.graph.input:
            if value.name in self.floats:
                self.names[value.name, _SINGLE] = value.name
                self.precision[value.name] = _SINGLE if value.name in single_inputs else _HALF

    def convert(self) -> None:
        for node in list(self.graph.node):
            self.convert_node(node)
        kept = [x for x in self.graph.initializer if x.name not in self.weights]
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend([*kept, *self.new_weights])

    def convert_node(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Shape":
            self.nodes.append(node)
            return
        depends = any(x in self.by_input for x in node.input)
        if depends:
            self.by_input.update(node.output)
        precision = self.choose(node, depends)
        for index, name in enumerate(node.input):
            if name in self.floats:
                node.input[index] = self.name_in(name, precision)
        casts = []
        for index, name in enumerate(node.output):
            if name not in self.floats:
                continue
            self.precision[name] = precision
            made = name
            if name in self.outputs and precision == _HALF:
                made = node.output[index] = f"{name}.fp16"
                casts.append(_cast(made, name, _SINGLE))
                self.names[name, _SINGLE] = name
            self.names[name, precision] = made
            if node.op_type == "Cast":
                del node.attribute[:]
                node.attribute.append(helper.make_attribute("to", precision))
            if node.op_type == "LayerNormalization":
                # Of order one again; what reads it is a product.
                self.precision[name] = _HALF
        self.nodes += [node, *casts]

    def choose(self, node: onnx.NodeProto, depends: bool) -> int:
        if node.op_type in _HALF_OPS:
            return _HALF
        if not depends or node.op_type in _SINGLE_OPS:
            return _SINGLE
        read = {self.precision[x] for x in node.input if x in self.precision and x in self.by_input}
        return _SINGLE if _SINGLE in read else _HALF

    def name_in(self, name: str, precision: int) -> str:
        """Return the name of a value in this precision, which is made if it is not there yet."""
        key = name, precision
        if key in self.names:
            return self.names[key]
        if name in self.weights:
            self.names[key] = self.add_weight(name, precision)
        else:
            other = self.names[name, _HALF if precision == _SINGLE else _SINGLE]
            self.names[key] = f"{name}.{'fp16' if precision == _HALF else 'fp32'}"
            self.nodes.append(_cast(other, self.names[key], precision))
        return self.names[key]

    def add_weight(self, name: str, precision: int) -> str:
        tensor = self.weights[name]
        if precision == _SINGLE:
            self.new_weights.append(tensor)
            return name
        array = numpy_helper.to_array(tensor)
        finite = np.abs(array[np.isfinite(array)])
        if finite.size and finite.max() > _LARGEST_HALF:
            raise ExportError(
                f"weight {name} of {self.graph.name} reaches {finite.max():.3g}, fp16 ends at "
                f"{_LARGEST_HALF:.0f}; these weights need the fp32 graphs"
            )
        self.new_weights.append(numpy_helper.from_array(array.astype(np.float16), f"{name}.fp16"))
        return f"{name}.fp16"


def _cast(source: str, target: str, precision: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast {target}", to=precision)


def _float_values(model: onnx.ModelProto) -> set[str]:
    """Return the names of all fp32 values; weights are left out."""
    skeleton = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        graph=onnx.GraphProto(name=model.graph.name, node=model.graph.node),
    )
    # Weights as inputs: what a fp32 weight holds decides no type, and copying it takes seconds.
    for tensor in model.graph.initializer:
        if tensor.data_type == _SINGLE:
            value = helper.make_tensor_value_info(tensor.name, _SINGLE, list(tensor.dims))
            skeleton.graph.input.append(value)
        else:
            skeleton.graph.initializer.append(tensor)
    skeleton.graph.input.extend(model.graph.input)
    skeleton.graph.output.extend(model.graph.output)
    graph = onnx.shape_inference.infer_shapes(skeleton, strict_mode=True).graph
    return {
        value.name
        for value in (*model.graph.input, *graph.output, *graph.value_info)
        if value.type.tensor_type.elem_type == _SINGLE
    }
