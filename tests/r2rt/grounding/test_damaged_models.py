"""Bundles whose hashes are right and whose content is wrong: one line, no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from r2rt import Grounder
from r2rt.errors import BundleDamagedError
from r2rt.model.bundle import file_entry
from r2rt.model.manifest import MANIFEST_NAME, manifest_bytes, read_manifest
from tests.r2rt.conftest import DEMO_BUNDLE


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, Callable[[bytes], bytes]], Path]:
    """Makes a copy of the demo's bundle with another file, and with the hash of that file."""
    folder = tmp_path / "bundle"

    def change(name: str, edit: Callable[[bytes], bytes]) -> Path:
        shutil.copytree(DEMO_BUNDLE, folder)
        (folder / name).write_bytes(edit((folder / name).read_bytes()))
        manifest = read_manifest(folder)
        files = {**manifest.files, name: file_entry(folder / name)}
        text = manifest_bytes(msgspec.structs.replace(manifest, files=files))
        (folder / MANIFEST_NAME).write_bytes(text)
        return folder

    return change


def answer(folder: Path) -> None:
    grounder = Grounder.load(folder, device="cpu", threads=1)
    size = grounder.bundle.dims.image_size
    frames = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    encoded = grounder.encode_frames(frames, fps=0.5)
    grounder.ground(encoded, "a dog")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(
    changed: Callable[[str, Callable[[bytes], bytes]], Path], value: float
) -> None:
    def spoil(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weights = numpy_helper.to_array(tensor).copy()
        weights.ravel()[::3] = value
        tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
        return bytes(model.SerializeToString())

    with pytest.raises(BundleDamagedError, match="not finite numbers"):
        answer(changed("grounder.onnx", spoil))


def test_token_ids_beyond_the_vocabulary(
    changed: Callable[[str, Callable[[bytes], bytes]], Path],
) -> None:
    def renumber(content: bytes) -> bytes:
        document = json.loads(content)
        document["model"]["vocab"]["dog</w>"] = 4_000_000_000
        return json.dumps(document).encode()

    with pytest.raises(BundleDamagedError, match=r"text_encoder\.onnx: ONNX Runtime cannot run"):
        answer(changed("tokenizer.json", renumber))
