"""External data of ONNX graphs: everything that a graph reads is listed in the manifest."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from r2rt.errors import BundleDamagedError
from r2rt.model.bundle import Bundle, file_entry
from r2rt.model.graph_files import external_locations
from r2rt.model.manifest import MANIFEST_NAME, manifest_bytes, read_manifest
from tests.r2rt.bundles import onnx_like_field, write_bundle


def outside(location: str) -> TensorProto:
    """A tensor whose values lie in another file."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name=location)
    onnx.external_data_helper.set_external_data(tensor, location, offset=0, length=16)
    tensor.ClearField("raw_data")
    return tensor


def sparse(values: str, indices: str) -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(outside(values), outside(indices), [4])


def model_with_every_kind_of_tensor() -> onnx.ModelProto:
    branch = helper.make_graph([], "branch", [], [], initializer=[outside("of_a_branch")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch)
    constant = helper.make_node("Constant", [], ["k"], value=outside("of_a_constant"))
    special = helper.make_node("Special", [], ["s"])
    special.attribute.append(helper.make_attribute("list", [outside("of_a_list")]))
    special.attribute.append(helper.make_attribute("thin", sparse("thin_values", "thin_indices")))
    inside = numpy_helper.from_array(np.arange(9, dtype=np.float32), name="location")
    graph = helper.make_graph(
        [node, constant, special], "main", [], [], initializer=[outside("a/weights.bin"), inside]
    )
    graph.sparse_initializer.append(sparse("sparse_values", "sparse_indices"))
    model = helper.make_model(graph)
    model.functions.append(
        helper.make_function(
            "d",
            "f",
            [],
            ["k"],
            [helper.make_node("Constant", [], ["k"], value=outside("of_a_function"))],
            [helper.make_opsetid("", 20)],
        )
    )
    training = model.training_info.add()
    training.algorithm.initializer.append(outside("of_training"))
    return model


def test_locations_are_found_wherever_onnx_may_have_a_tensor(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(model_with_every_kind_of_tensor().SerializeToString())
    assert external_locations(path) == {
        *("a/weights.bin", "of_a_branch", "of_a_constant", "of_a_list", "of_a_function"),
        *("of_training", "sparse_values", "sparse_indices", "thin_values", "thin_indices"),
    }


def test_a_graph_with_its_weights_inside_names_nothing(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    tensor = numpy_helper.from_array(np.zeros((64, 64), np.float32), name="w")
    model = helper.make_model(helper.make_graph([], "g", [], [], initializer=[tensor]))
    path.write_bytes(model.SerializeToString())
    assert external_locations(path) == set()


@pytest.mark.parametrize(
    "content",
    [
        b"not a graph",
        b"\x3a\x7f",
        b"\x3a" + b"\xff" * 20,
        b"\x0b\x0c",
        b"\x08",
        b"\x00\x00\x00\x00ORTM\x00\x00",
        # A location that is no text.
        onnx_like_field(
            7,
            onnx_like_field(
                5,
                onnx_like_field(
                    13, onnx_like_field(1, b"location") + onnx_like_field(2, b"\xff\xff")
                ),
            ),
        ),
    ],
    ids=lambda content: repr(content)[:24],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011  UnicodeError is one
        external_locations(path)


def test_an_unreasonable_number_of_fields_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r2rt.model.graph_files._MAX_FIELDS", 1000)
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"\x3a\x00" * 1000)
    assert external_locations(path) == set()
    path.write_bytes(b"\x3a\x00" * 1001)
    with pytest.raises(ValueError, match="more than 1000 fields"):
        external_locations(path)


class TestBundle:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A bundle whose grounder reads `weights.bin`, which the manifest does not list."""
        write_bundle(tmp_path)
        (tmp_path / "weights.bin").write_bytes(bytes(16))
        model = helper.make_model(
            helper.make_graph([], "g", [], [], initializer=[outside("weights.bin")])
        )
        self.put(tmp_path, "grounder.onnx", model.SerializeToString())
        return tmp_path

    def put(self, folder: Path, name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        manifest = read_manifest(folder)
        files = {**manifest.files, name: file_entry(folder / name)}
        changed = msgspec.structs.replace(manifest, files=files)
        (folder / MANIFEST_NAME).write_bytes(manifest_bytes(changed))

    def test_weights_that_are_not_listed_are_refused(self, folder: Path) -> None:
        with pytest.raises(BundleDamagedError, match=r"'weights.bin', which the manifest does not"):
            Bundle.open(folder)

    def test_listed_weights_are_hashed_and_accepted(self, folder: Path) -> None:
        self.put(folder, "weights.bin", bytes(16))
        Bundle.open(folder)

    @pytest.mark.parametrize(
        "location",
        ["../weights.bin", "/etc/hostname", "*/_ORT_MEM_ADDR_/*", "", "a/../weights.bin"],
    )
    def test_locations_outside_are_refused(self, folder: Path, location: str) -> None:
        self.put(folder, "weights.bin", bytes(16))
        model = helper.make_model(
            helper.make_graph([], "g", [], [], initializer=[outside(location)])
        )
        self.put(folder, "grounder.onnx", model.SerializeToString())
        with pytest.raises(BundleDamagedError, match="does not list"):
            Bundle.open(folder)

    def test_what_is_no_graph_is_refused(self, folder: Path) -> None:
        self.put(folder, "grounder.onnx", b"no graph")
        with pytest.raises(BundleDamagedError, match="not an ONNX graph"):
            Bundle.open(folder)
