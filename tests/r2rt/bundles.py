"""Bundles with a valid manifest and dummy files, for tests that run no graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from r2rt.model.bundle import file_entry
from r2rt.model.contract import ModelDims, graph_specs
from r2rt.model.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    TOKENIZER_NAME,
    Check,
    Manifest,
    Nms,
    Preprocessing,
    Provenance,
    Verification,
    manifest_bytes,
)

__all__ = ["DIMS", "fake_files", "fake_manifest", "write_bundle"]

DIMS = ModelDims(
    image_size=32,
    patches=5,
    layers=2,
    width=8,
    context_length=77,
    strides=(1, 2, 4, 8),
    use_tef=True,
    has_offsets=True,
)


def fake_files(dims: ModelDims = DIMS, *, size: int = 3000) -> dict[str, bytes]:
    """Contents of every file that a bundle must have, each of them different."""
    names = [*(f"{graph}.onnx" for graph in graph_specs(dims)), TOKENIZER_NAME]
    return {name: _graph_of_nothing(name, size + index) for index, name in enumerate(names)}


def _graph_of_nothing(name: str, size: int) -> bytes:
    """A protobuf message of `size` bytes with one field, of a number that ONNX does not use."""
    field = onnx_like_field(1000, b"")
    rest = size - len(field)
    return onnx_like_field(1000, (name.encode() * size)[:rest])


def onnx_like_field(number: int, content: bytes) -> bytes:
    """A length-delimited field of protobuf; its head takes 7 bytes for numbers from 16 on."""
    tag, length = number << 3 | 2, len(content)
    head = bytes((tag & 0x7F | 0x80, tag >> 7)) if tag > 0x7F else bytes((tag,))
    # A number may be written with more bytes than it needs.
    return head + bytes(length >> 7 * i & 0x7F | 0x80 * (i < 4) for i in range(5)) + content


def fake_manifest(folder: Path, files: list[str], **changes: Any) -> Manifest:
    """A manifest of files that lie in `folder`."""
    manifest = Manifest(
        schema=SCHEMA_VERSION,
        name="fake",
        dims=DIMS,
        clip="ViT-B-32-quickgelu",
        vision_width=768,
        text_width=512,
        heads=8,
        merge_cls_sal=True,
        fps="1/2",
        unit_s=2.0,
        window_s=150.0,
        max_moments=50,
        nms=Nms(kind="normal"),
        preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        precision="fp32",
        files={name: file_entry(folder / name) for name in files},
        provenance=Provenance(
            recipe="qvhighlights",
            checkpoint="fake.pth",
            checkpoint_sha256="0" * 64,
            clip="ViT-B-32-quickgelu@openai",
            clip_sha256="1" * 64,
            exporter="tests",
        ),
        verification=Verification(
            passed=True,
            checks=(
                Check(
                    name="grounder",
                    cases=3,
                    max_abs_error=1e-6,
                    error=0.1,
                    rtol=1e-4,
                    atol=1e-5,
                    passed=True,
                ),
            ),
        ),
    )
    return msgspec.structs.replace(manifest, **changes)


def write_bundle(
    folder: Path, contents: dict[str, bytes] | None = None, **changes: Any
) -> Manifest:
    """Write a bundle with these files (by default, dummies) and return its manifest."""
    contents = fake_files() if contents is None else contents
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    manifest = fake_manifest(folder, list(contents), **changes)
    (folder / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
    return manifest
