"""Weights with outlier channels, as trained CLIPs have them and random ones do not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from r2rt.model.bundle import Bundle
from r2rt.model.bundle_writer import list_files, write_manifest
from r2rt.model.contract import TEXT_ENCODER, VIDEO_ENCODER
from r2rt.model.onnx_graph import OnnxGraph
from r2rt.quality.int8 import find_linears

CHANNELS = 6
FACTOR = np.float32(40)


def inject_outliers(origin: Path, folder: Path) -> Path:
    """Copy a bundle; channels after every LayerNormalization ×40, undone in the next weight."""
    bundle = Bundle.open(origin)
    folder.mkdir()
    for name in bundle.manifest.files:
        graph = name.removesuffix(".onnx")
        data = bundle.file(name).read_bytes()
        if graph in {VIDEO_ENCODER, TEXT_ENCODER}:
            model = onnx.load_model_from_string(data)
            _inject(model)
            data = model.SerializeToString(deterministic=True)
        (folder / name).write_bytes(data)
    write_manifest(folder, msgspec.structs.replace(bundle.manifest, files=list_files(folder)))
    return folder


def _inject(model: onnx.ModelProto) -> None:
    constants = {item.name: item for item in model.graph.initializer}
    nodes = {node.output[0]: node for node in model.graph.node}
    for index, linear in enumerate(find_linears(OnnxGraph.parse(model.SerializeToString()))):
        if linear.norm is None:
            continue
        output, gamma, beta = linear.norm
        weight = numpy_helper.to_array(constants[linear.weight]).copy()
        channels = np.random.default_rng(index).permutation(len(weight))[:CHANNELS]
        weight[channels] /= FACTOR
        constants[linear.weight].CopyFrom(numpy_helper.from_array(weight, linear.weight))
        for position, name in ((1, gamma), (2, beta)):
            values = numpy_helper.to_array(constants[name]).copy()
            values[channels] *= FACTOR
            # Equal constants may be shared with another norm, which is to stay.
            item = numpy_helper.from_array(values, f"{name}.{index}")
            model.graph.initializer.append(item)
            nodes[output].input[position] = item.name
