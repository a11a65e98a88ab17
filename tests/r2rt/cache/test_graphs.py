"""Graphs prepared for the machine give the same numbers, and damage to them is harmless."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from r2rt import Bundle
from r2rt.cache.graphs import PreparedGraph, _processor, prepared_graphs
from r2rt.cache.verified import is_verified, remember_verified
from r2rt.engines.onnx_runtime import OnnxRuntimeEngine
from r2rt.errors import HashMismatchError
from r2rt.model.contract import VIDEO_ENCODER
from tests.r2rt.conftest import DEMO_BUNDLE


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def every_graph_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r2rt.engines.onnx_runtime._SMALLEST_PREPARED_BYTES", 0)


def encode() -> np.ndarray:
    engine = OnnxRuntimeEngine(Bundle.open(DEMO_BUNDLE), threads=1)
    size = engine._bundle.dims.image_size
    frames = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    return np.asarray(engine.run(VIDEO_ENCODER, {"frames": frames})["tokens"])


def test_small_graphs_are_left_alone(cache_folder: Path) -> None:
    encode()
    assert not (cache_folder / "graphs").exists()


def test_prepared_and_original_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    original = encode()
    monkeypatch.setattr("r2rt.engines.onnx_runtime._SMALLEST_PREPARED_BYTES", 0)
    first = encode()  # makes it, and runs it
    np.testing.assert_array_equal(encode(), first)
    assert len(prepared_graphs().entries()) == 1
    np.testing.assert_allclose(encode(), original, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("every_graph_prepared")
def test_a_graph_is_prepared_where_no_c_library_can_be_asked_for_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(name: str | None) -> None:
        raise TypeError(f"LoadLibrary() argument 1 must be str, not {name}")  # as on Windows

    monkeypatch.setattr("r2rt.portable.sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(ctypes, "CDLL", load)
    encode()
    assert len(prepared_graphs().entries()) == 1


@pytest.mark.usefixtures("every_graph_prepared")
def test_a_torn_prepared_graph_is_made_again() -> None:
    want = encode()
    (folder,) = (entry.path for entry in prepared_graphs().entries())
    (folder / "graph.onnx").write_bytes(b"torn")
    np.testing.assert_array_equal(encode(), want)
    assert not folder.exists()
    np.testing.assert_array_equal(encode(), want)
    assert folder.exists()


@pytest.mark.usefixtures("every_graph_prepared")
def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "file" / "cache"))
    assert np.isfinite(encode()).all()


def test_another_runtime_graph_or_processor_is_another_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = {
        PreparedGraph("a" * 64, "onnxruntime 1").path,
        PreparedGraph("b" * 64, "onnxruntime 1").path,
        PreparedGraph("a" * 64, "onnxruntime 2").path,
    }
    assert PreparedGraph("a" * 64, "onnxruntime 1").path in paths
    monkeypatch.setattr("r2rt.cache.graphs._processor", lambda: "another processor")
    paths.add(PreparedGraph("a" * 64, "onnxruntime 1").path)
    assert len(paths) == 4


@pytest.mark.parametrize("name", ["flags", "Features"])  # as x86 and as ARM have it
def test_a_processor_is_known_by_its_instructions(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{name}\t\t: fpu avx2\n\n{name}\t\t: another\n")
    monkeypatch.setattr("r2rt.cache.graphs.Path", lambda _: cpuinfo)
    monkeypatch.setattr("platform.machine", lambda: "machine")
    monkeypatch.setattr("platform.processor", lambda: "processor")
    assert _processor.__wrapped__() == "machine fpu avx2"
    cpuinfo.write_text("processor\t: 0\n")
    assert _processor.__wrapped__() == "machine processor"
    cpuinfo.unlink()
    assert _processor.__wrapped__() == "machine processor"


def test_the_graph_that_was_used_last_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r2rt.cache.graphs._MAX_BYTES", 10 << 20)
    graphs = [PreparedGraph(letter * 64, "onnxruntime 1") for letter in "abc"]
    size = 1 << 20

    def write(path: Path) -> None:
        path.write_bytes(bytes(size))
        path.with_name("weights.bin").write_bytes(bytes(size))

    for graph in graphs[:2]:
        assert graph.put(size, write)
    for age, graph in enumerate(graphs[:2]):
        os.utime(graph.path.parent, (age, age))
    assert graphs[0].find()  # the other one is the oldest now
    for letter in "defg":
        newest = PreparedGraph(letter * 64, "onnxruntime 1")
        assert newest.put(size, write)
        assert newest.find()
        assert graphs[0].find()
    assert not graphs[1].find()


def test_a_prepared_graph_may_take_two_and_a_half_times_the_original_and_a_mebibyte(
    cache_folder: Path,
) -> None:
    graph = PreparedGraph("a" * 64, "onnxruntime 1")
    largest = 5 * (1 << 20) + (1 << 20)  # of an original of 2 MiB

    def write(size: int) -> Callable[[Path], None]:
        def sparse(path: Path) -> None:
            with path.open("wb") as file:
                file.truncate(size)

        return sparse

    assert not graph.put(2 << 20, write(largest + 1))
    assert not graph.find()
    assert graph.put(2 << 20, write(largest))
    assert graph.find()
    assert graph.path.parent.parent == cache_folder / "graphs"
    graph.discard()
    assert not graph.find()


def test_a_bundle_is_compared_with_its_hashes_once_a_change(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in DEMO_BUNDLE.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    names = [file.name for file in folder.iterdir()]
    assert not is_verified(folder, names)
    Bundle.open(folder)
    assert is_verified(folder, names)
    graph = folder / "grounder.onnx"
    content = bytearray(graph.read_bytes())
    content[1000] ^= 1
    graph.write_bytes(content)
    assert not is_verified(folder, names)
    with pytest.raises(HashMismatchError):
        Bundle.open(folder)
    assert not is_verified(folder, names)


def test_a_change_that_keeps_size_and_date_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"before")
    remember_verified(tmp_path, ["file"])
    assert is_verified(tmp_path, ["file"])
    status = file.stat()
    file.write_bytes(b"behind")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not is_verified(tmp_path, ["file"])


def test_every_bundle_is_remembered_by_its_folder(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        remember_verified(tmp_path / name, ["file"])
    assert is_verified(tmp_path / "a", ["file"])
    assert is_verified(tmp_path / "b", ["file"])
    monkeypatch.chdir(tmp_path)
    assert is_verified(Path("a"), ["file"])
    assert len(list((cache_folder / "verified").iterdir())) == 2


def test_a_cache_that_is_not_there_yet_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "some" / "where"))
    remember_verified(tmp_path, ["file"])
    assert is_verified(tmp_path, ["file"])


def test_a_file_more_or_one_that_is_missing_is_not_verified(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    (tmp_path / "two").touch()
    remember_verified(tmp_path, ["two", "one"])
    assert is_verified(tmp_path, ["one", "two"])
    assert not is_verified(tmp_path, ["one"])
    (tmp_path / "two").unlink()
    assert not is_verified(tmp_path, ["one", "two"])


def test_remembering_without_a_place_to_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "file" / "cache"))
    remember_verified(DEMO_BUNDLE, ["bundle.json"])
    assert not is_verified(DEMO_BUNDLE, ["bundle.json"])
