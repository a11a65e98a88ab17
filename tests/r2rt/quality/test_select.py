"""What of a graph is rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from r2rt.model.onnx_graph import OnnxGraph
from r2rt.quality.int8.select import select


@pytest.mark.parametrize("index", [np.int16, np.int32])
def test_rows_are_rounded_and_which_one_an_id_has_is_not(tmp_path: Path, index: type) -> None:
    """As the embedding of a CLIP is exported in which most ids have the same row."""
    rng = np.random.default_rng(0)
    row_of: NDArray[Any] = rng.integers(0, 2500, (5000, 1)).astype(index)
    rows = rng.normal(size=(2500, 64)).astype(np.float32)
    weight = rng.normal(size=(64, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["row_of", "ids"], ["column"]),
        helper.make_node("Squeeze", ["column", "last"], ["short"]),
        helper.make_node("Cast", ["short"], ["row"], to=TensorProto.INT64),
        helper.make_node("Gather", ["rows", "row"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "weight"], ["states"]),
    ]
    constants = {"row_of": row_of, "rows": rows, "weight": weight, "last": np.array([-1])}
    graph = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["L", 1])],
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["L", 1, 64])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    path = tmp_path / "text.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    ids = np.arange(5000)[:, None]
    chosen = select(
        OnnxGraph.read(path),
        [{"ids": ids}],
        output="states",
        features=64,
        budget=0.1,
        say=lambda _: None,
    )
    assert chosen.error < 0.05
    kept = chosen.graph.constants["row_of"]
    assert kept.dtype == index
    assert np.array_equal(kept, row_of)
    assert "rows" not in chosen.graph.constants
