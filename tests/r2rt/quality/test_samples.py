"""What of the activations is kept to fit ranges to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from r2rt.model.onnx_graph import OnnxGraph
from r2rt.quality.int8 import collect, find_linears


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ((3, 5), [0, 1, 2, 0, 1, 2, 3, 4]),  # all of runs that are shorter than their share
        ((512, 3), [*range(2, 512, 4), 0, 1, 2]),
    ],
)
def test_rows_are_taken_evenly_from_each_run(
    tmp_path: Path, lengths: tuple[int, ...], kept: list[int]
) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "weight"], ["states"])],
        "text",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.eye(2, dtype=np.float32), "weight")],
    )
    path = tmp_path / "text.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    model = OnnxGraph.read(path)
    runs = [
        {"rows": np.arange(length, dtype=np.float32).repeat(2).reshape(length, 2)}
        for length in lengths
    ]
    (samples,) = collect(model, find_linears(model), runs).values()
    assert samples.typical[:, 0].tolist() == kept
