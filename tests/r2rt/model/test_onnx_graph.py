"""Graphs read, changed and written without the package onnx, which is the oracle here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from r2rt.model.convert.convert import published_templates
from r2rt.model.onnx_graph import Node, OnnxGraph, int_attribute, of_domain
from tests.conftest import CHECKOUT

DEMO = CHECKOUT / "r2rt" / "demo"
GRAPHS = sorted(path.stem for path in DEMO.glob("*.onnx"))


def parsed(data: bytes) -> onnx.ModelProto:
    """Without the empty comments that the exporter gives to constants."""
    model = onnx.load_model_from_string(data)
    for tensor in model.graph.initializer:
        tensor.ClearField("doc_string")
    return model


def small(*, initializer: TensorProto) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", initializer.name], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [initializer],
    )
    opset = helper.make_opsetid("", 20)
    data: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()
    return data


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_written_is_what_was_read(name: str, tmp_path: Path) -> None:
    graph = OnnxGraph.read(DEMO / f"{name}.onnx")
    graph.copy().write(tmp_path / "again.onnx")
    want = parsed((DEMO / f"{name}.onnx").read_bytes())
    assert parsed((tmp_path / "again.onnx").read_bytes()) == want
    assert graph.outputs == tuple(x.name for x in want.graph.output)
    assert {name: x.shape for name, x in graph.constants.items()} == {
        x.name: tuple(x.dims) for x in want.graph.initializer
    }


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "float64", "uint8", "int8", "int16", "int32", "int64", "bool"]
)
def test_constants_of_every_type_and_shape(dtype: str) -> None:
    for shape in ((), (0,), (3,), (2, 3)):
        want = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
        graph = OnnxGraph.parse(small(initializer=numpy_helper.from_array(want, "b")))
        got = graph.constants["b"]
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_array_equal(got, want)


def test_new_operators_and_constants_run(tmp_path: Path) -> None:
    """Written and in memory, and outputs of inner nodes, with a large constant and a scalar."""
    graph = OnnxGraph.parse(small(initializer=numpy_helper.from_array(np.ones(3, "f4"), "b")))
    graph.constants["large"] = np.arange(6000, dtype=np.float32).reshape(3, 2000).T  # no copy yet
    graph.constants["half"] = np.array(0.5, np.float32)
    graph.nodes += [
        Node(op_type="Mul", inputs=["y", "half"], outputs=["halved"]),
        Node(op_type="Gelu", inputs=["halved"], outputs=["g"], rest=of_domain("com.microsoft")),
        Node(op_type="Cast", inputs=["g"], outputs=["whole"], rest=int_attribute("to", 7)),
        Node(op_type="MatMul", inputs=["large", "halved"], outputs=["sums"]),
    ]
    graph.use_domain("com.microsoft", 1)
    graph.use_domain("com.microsoft", 1)
    x = np.array([1, 3, 5], np.float32)
    halved, whole, sums, y = graph.runner(["halved", "whole", "sums", "y"])({"x": x})
    np.testing.assert_array_equal(halved, [1, 2, 3])
    np.testing.assert_array_equal(whole, [0, 1, 2])
    np.testing.assert_array_equal(sums, graph.constants["large"] @ halved)
    np.testing.assert_array_equal(y, x + 1)
    graph.write(tmp_path / "graph.onnx")
    model = onnx.load(tmp_path / "graph.onnx")
    assert [(x.domain, x.version) for x in model.opset_import] == [("", 20), ("com.microsoft", 1)]
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx")
    np.testing.assert_array_equal(session.run(["y"], {"x": x})[0], y)


def test_constants_elsewhere_and_of_other_types_are_refused(tmp_path: Path) -> None:
    listed = helper.make_tensor("b", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    outside = TensorProto(name="b", data_type=1, dims=[3], data_location=TensorProto.EXTERNAL)
    text = helper.make_tensor("b", TensorProto.STRING, [1], [b"word"])  # type: ignore[list-item]
    for tensor in (listed, outside, text):
        with pytest.raises(ValueError, match="constant b: expected numbers in the file itself"):
            OnnxGraph.parse(small(initializer=tensor))
    template = published_templates("moments")["grounder"]
    with pytest.raises(ValueError, match="expected numbers"):
        OnnxGraph.parse(template)


@pytest.mark.parametrize("cut", [1, 9, 40, -5])
def test_cut_files_are_refused(cut: int) -> None:
    data = small(initializer=numpy_helper.from_array(np.ones(3, "f4"), "b"))
    with pytest.raises(ValueError, match=r"no ONNX model|not a protobuf message"):
        OnnxGraph.parse(data[:cut])


@pytest.mark.parametrize("entries", [{}, {"offset": "4"}, {"offset": "4", "length": "12"}])
def test_numbers_beside_the_graph_need_no_length(entries: dict[str, str], tmp_path: Path) -> None:
    """ONNX leaves offset and length to the writer."""
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "small.onnx.data", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "small.onnx").write_bytes(small(initializer=tensor))
    numbers = np.arange(4, dtype=np.float32)
    (tmp_path / "small.onnx.data").write_bytes(numbers.tobytes())
    first = int(entries.get("offset", "0")) // 4
    found = OnnxGraph.read(tmp_path / "small.onnx").constants["w"]
    np.testing.assert_array_equal(found, numbers[first : first + 3])


def test_numbers_that_are_nowhere(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="offset", value="4")
    (tmp_path / "small.onnx").write_bytes(small(initializer=tensor))
    (tmp_path / "small.onnx.data").write_bytes(bytes(12))
    with pytest.raises(ValueError, match="constant w"):
        OnnxGraph.read(tmp_path / "small.onnx")
