"""Rearrangements of a graph that change nothing but what an engine makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from r2rt.model.contract import PATCH_BIAS

if TYPE_CHECKING:
    from r2rt.model.bundle import Bundle

__all__ = ["engine_models", "stack_projections", "without_int16", "without_merging"]


def engine_models(bundle: Bundle) -> dict[str, onnx.ModelProto]:
    """Return the fp32 graphs of a bundle as engines compute them; see `Bundle.engine_graphs`."""
    models = {}
    for graph in bundle.engine_graphs:
        models[graph] = onnx.load_model_from_string(bundle.file(f"{graph}.onnx").read_bytes())
        without_merging(models[graph], bundle.dims.patches)
        without_int16(models[graph])
    return models


def stack_projections(model: onnx.ModelProto) -> None:
    """Cut the outputs of stacked linear layers along an axis of their own, in place.

    Where queries, keys and values come out of one product side by side, TensorRT-RTX pulls a Split
    along the last axis through the product: each part gets kernels of its own, and an int8 product
    is computed in fp16. Reshape, Transpose and Gather along the first axis leave it whole.
    """
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        width = _width(node, producers, graph)
        if width is None:
            nodes.append(node)
            continue
        axis = helper.get_node_attr_value(node, "axis")
        parts = len(node.output)
        at = node.output[0]
        shape = np.array([0] * axis + [parts, width // parts], dtype=np.int64)
        graph.initializer.append(numpy_helper.from_array(shape, f"{at}.shape"))
        order = [axis, *range(axis), axis + 1]
        nodes += [
            helper.make_node("Reshape", [node.input[0], f"{at}.shape"], [f"{at}.parts"]),
            helper.make_node("Transpose", [f"{at}.parts"], [f"{at}.stack"], perm=order),
        ]
        for index, name in enumerate(node.output):
            value = numpy_helper.from_array(np.array(index, dtype=np.int64), f"{name}.index")
            graph.initializer.append(value)
            nodes.append(
                helper.make_node("Gather", [f"{at}.stack", f"{name}.index"], [name], axis=0)
            )
    del graph.node[:]
    graph.node.extend(nodes)


def _width(
    node: onnx.NodeProto, producers: dict[str, onnx.NodeProto], graph: onnx.GraphProto
) -> int | None:
    """Return how wide the linear layer is whose output a Split cuts in equal parts, if it does."""
    if node.op_type != "Split" or len(node.input) != 1:
        return None
    add = producers.get(node.input[0])
    if add is None or add.op_type != "Add":
        return None
    products = [x for x in add.input if x in producers and producers[x].op_type == "MatMul"]
    biases = [x.dims[0] for x in graph.initializer if x.name in add.input and len(x.dims) == 1]
    if len(products) != 1 or len(biases) != 1 or biases[0] % len(node.output):
        return None
    return int(biases[0])


def without_int16(model: onnx.ModelProto) -> None:
    """Widen int16 weights to int32, in place: TensorRT's parser takes no int16.

    They number the rows of an embedding; what is read of them is cast to int64 whatever it was.
    """
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT16:
            wide = numpy_helper.to_array(tensor).astype(np.int32)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def without_merging(model: onnx.ModelProto, patches: int) -> None:
    """Fix the rows a frame to `patches` and take out their bias, in place.

    Engines and kernels are built for P rows; the fused attention of the pooling has no bias.
    """
    graph = model.graph
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "P":
                dim.Clear()
                dim.dim_value = patches
    inputs = [x for x in graph.input if x.name == PATCH_BIAS]
    if not inputs:
        return
    graph.input.remove(inputs[0])
    unused = {PATCH_BIAS}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        biased = [name for name in node.input if name in unused]
        if biased and node.op_type == "Add":
            (renamed[node.output[0]],) = (name for name in node.input if name not in unused)
        elif biased:
            unused.update(node.output)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
