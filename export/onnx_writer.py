"""One PyTorch module to one ONNX file: the contract's names and sizes, reproducible bytes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import onnx
import torch
import torch._dynamo.config
from torch import Tensor, nn

if TYPE_CHECKING:
    from r2rt.model.contract import GraphSpec

__all__ = ["OPSET", "graph_to_onnx"]

# TensorRT-RTX builds no fp32 engine from opset 23's Attention; 20 holds all that the graphs need.
OPSET = 20

# Sizes to trace with: all different, none 0 or 1, which the exporter would take for constants.
_TRACED = {"B": 3, "T": 29, "N": 5, "L": 7}


def graph_to_onnx(
    module: nn.Module, spec: GraphSpec, *, context_length: int, doc: str = ""
) -> onnx.ModelProto:
    """Export a module whose inputs and outputs are `spec`'s, in order.

    The result holds no trace of the machine, and is the same for the same weights.

    Args:
        module: the graph.
        spec: its definition.
        context_length: the most query tokens L there can be.
        doc: what the graph is, for people who open the file.
    """
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
            module.eval(),
            tuple(inputs.values()),
            dynamic_shapes=tuple(dynamic.values()),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        exported = torch.onnx.export(
            program,
            input_names=list(inputs),
            output_names=[tensor.name for tensor in spec.outputs],
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    _clean(model, spec, doc)
    onnx.checker.check_model(model)
    return model


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
        item.doc_string = ""
        del item.metadata_props[:]
    # The version that exported it stands in the manifest. In the graph it would change the bundle's
    # fingerprint, and void what was encoded, with every release.
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
