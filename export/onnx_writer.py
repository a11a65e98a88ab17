"""One PyTorch module to one ONNX file: the contract's names and sizes, reproducible bytes.

A module is exported without its weights, as a template (`r2rt.model.convert.template`), which is
then filled. So the operators cannot depend on the weights, and a module's file is what the runtime
makes of the same template and weights.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import onnx
import torch
import torch._dynamo.config
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from r2rt.model.contract import GraphSpec

__all__ = ["OPSET", "graph_template", "module_weights"]

# TensorRT-RTX builds no fp32 engine from opset 23's Attention; 20 holds all that the graphs need.
OPSET = 20

# Behind the names of outputs while the exporter names the values inside.
_OUTPUT = ".output"
# Sizes to trace with: all different, none 0 or 1, which the exporter would take for constants.
_TRACED = {"B": 3, "T": 29, "N": 5, "L": 7, "P": 17}


def module_weights(module: nn.Module) -> dict[str, NDArray[Any]]:
    """Return the weights of a module by the names of its template's slots."""
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def graph_template(
    module: nn.Module, spec: GraphSpec, *, context_length: int, doc: str = ""
) -> bytes:
    """Export a module whose inputs and outputs are `spec`'s, in order, without its weights.

    The result holds no trace of the machine, and is the same whatever the weights are. All that is
    in the module's state dict becomes a slot; what is not, such as positions, stays a constant.

    Args:
        module: the graph.
        spec: its definition.
        context_length: the most query tokens L there can be.
        doc: what the graph is, for people who open the file.
    """
    model = _exported(_with_distinct_weights(module), spec, context_length)
    _clean(model, spec, doc)
    onnx.checker.check_model(model)
    names = set(module.state_dict())
    missing = names - {tensor.name for tensor in model.graph.initializer}
    assert not missing, f"weights that the exporter has folded: {sorted(missing)}"
    for tensor in model.graph.initializer:
        if tensor.name in names:
            tensor.ClearField("raw_data")
    template: bytes = model.SerializeToString(deterministic=True)
    return template


def _with_distinct_weights(module: nn.Module) -> nn.Module:
    """Return a copy in which no two weights are equal, which the exporter would make one of."""
    copied = copy.deepcopy(module).eval()
    with torch.no_grad():
        for index, parameter in enumerate(copied.parameters()):
            parameter.fill_(1.5 + index / 1024)
    return copied


def _exported(module: nn.Module, spec: GraphSpec, context_length: int) -> onnx.ModelProto:
    inputs = _example_inputs(spec)
    dims: dict[str, torch.export.Dim] = {}
    dynamic = {
        tensor.name: {
            axis: dims.setdefault(
                size, torch.export.Dim(size, max=context_length if size == "L" else None)
            )
            for axis, size in enumerate(tensor.shape)
            if isinstance(size, str)
        }
        for tensor in spec.inputs
    }
    # The cache of traced operators takes longer to look up with symbolic sizes than to do without.
    uncached = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
    with torch.no_grad(), _quiet(), uncached:
        program = torch.export.export(
            module,
            tuple(inputs.values()),
            dynamic_shapes=tuple(dynamic.values()),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        exported = torch.onnx.export(
            program,
            input_names=list(inputs),
            output_names=[f"{tensor.name}{_OUTPUT}" for tensor in spec.outputs],
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    _name_outputs(model.graph, {tensor.name for tensor in spec.outputs})
    return model


def _name_outputs(graph: onnx.GraphProto, names: set[str]) -> None:
    """Give the outputs their names; a value inside that the exporter called so gets another."""
    new = {f"{name}{_OUTPUT}": name for name in names} | {name: f"{name}_inside" for name in names}
    for node in graph.node:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = new.get(name, name)
    for output in graph.output:
        output.name = new[output.name]


def _example_inputs(spec: GraphSpec) -> dict[str, Tensor]:
    """Inputs to trace with; the values matter to nothing but the exporter's constant folding."""
    inputs = {}
    for tensor in spec.inputs:
        shape = tuple(_TRACED[size] if isinstance(size, str) else size for size in tensor.shape)
        inputs[tensor.name] = torch.ones(shape, dtype=getattr(torch, tensor.dtype))
    return inputs


def _clean(model: onnx.ModelProto, spec: GraphSpec, doc: str) -> None:
    """Drop traces and value infos, name the dimensions as the contract does."""
    graph = model.graph
    graph.name = spec.name
    graph.doc_string = model.doc_string = doc
    del graph.value_info[:]
    del graph.metadata_props[:]
    del model.metadata_props[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("doc_string")
        del item.metadata_props[:]
    # The exporter's version is in the manifest. In the graph, every release would change the
    # bundle's fingerprint and so invalidate saved encodings.
    model.producer_name, model.producer_version = "r2rt", ""
    for value, tensor in zip(
        (*graph.input, *graph.output), (*spec.inputs, *spec.outputs), strict=True
    ):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for size in tensor.shape:
            dim = shape.dim.add()
            if isinstance(size, str):
                dim.dim_param = size
            else:
                dim.dim_value = size


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and deprecation notes off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
