"""Records of compiled kernels: what is accepted, and that hostile ones are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2rt.engines.tensorrt.cubins import (
    SCHEMA_VERSION,
    Call,
    CubinArgument,
    CubinRecord,
    Extent,
    Launch,
    LaunchSequence,
    extent,
    read_cubins,
    read_sequence,
)
from r2rt.errors import BundleDamagedError, HashMismatchError
from r2rt.model.bundle import Bundle
from tests.r2rt.bundles import fake_files, write_bundle

IMAGE = b"\x7fELF cubin"
RECORD = CubinRecord(
    schema=SCHEMA_VERSION,
    kernel="frame_step",
    entry="_frame_step",
    target="sm_90a",
    shared_bytes=40960,
    num_warps=8,
    arguments=(
        CubinArgument(name="v_ptr", type="*fp16", divisible_by=16),
        CubinArgument(name="clips", type="i32"),
    ),
    constexprs={"P": 50, "D": 256, "EPS": 1e-5, "query_mask_ptr": None},
    triton="3.8.0",
    sha256=hashlib.sha256(IMAGE).hexdigest(),
)


def bundle_with(folder: Path, files: dict[str, bytes]) -> Bundle:
    write_bundle(folder, fake_files() | {f"kernels/sm_90/{name}": files[name] for name in files})
    return Bundle.open(folder)


def encoded(**changes: Any) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(RECORD, **changes))


def test_a_record_is_read_with_its_code(tmp_path: Path) -> None:
    files = {"step.json": encoded(), "step.cubin": IMAGE}
    bundle = bundle_with(tmp_path, files)
    cubins = read_cubins(bundle, "sm_90")
    assert cubins["step"].record == RECORD
    assert cubins["step"].image == IMAGE
    assert read_cubins(bundle, "sm_80") == {}
    assert read_sequence(bundle, "sm_90", "grounder") is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"target": "sm_80"}, "compiled for 'sm_80'"),
        ({"target": "gfx942"}, "compiled for 'gfx942'"),
        ({"num_warps": 0}, "0 warps"),
        ({"num_warps": 64}, "64 warps"),
        ({"num_ctas": 99}, "99 blocks"),
        ({"shared_bytes": -1}, "are impossible"),
        ({"global_scratch_bytes": 1 << 40}, "are impossible"),
        ({"global_scratch_align": 3}, "powers of two"),
        ({"arguments": (CubinArgument(name="x", type="i32"),) * 2}, "same name"),
        ({"schema": SCHEMA_VERSION + 1}, f"schema {SCHEMA_VERSION + 1}"),
    ],
)
def test_a_record_that_cannot_be_launched_is_refused(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    bundle = bundle_with(tmp_path, {"step.json": encoded(**changes), "step.cubin": IMAGE})
    with pytest.raises(BundleDamagedError, match=complaint):
        read_cubins(bundle, "sm_90")


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"[1]", b'{"schema": "1"}', b"[" * 5000, encoded()[:-1] + b',"extra":1}', b"\xff"],
)
def test_a_malformed_record_is_refused(tmp_path: Path, text: bytes) -> None:
    bundle = bundle_with(tmp_path, {"step.json": text, "step.cubin": IMAGE})
    with pytest.raises(BundleDamagedError):
        read_cubins(bundle, "sm_90")


def test_code_that_is_not_the_records_is_refused(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, {"step.json": encoded(), "step.cubin": IMAGE + b"!"})
    with pytest.raises(HashMismatchError, match="its record says"):
        read_cubins(bundle, "sm_90")


def test_a_record_without_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleDamagedError, match=r"no file kernels/sm_90/step\.cubin"):
        read_cubins(bundle_with(tmp_path, {"step.json": encoded()}), "sm_90")


def test_a_sequence_is_read_and_is_that_of_its_graph(tmp_path: Path) -> None:
    sequence = LaunchSequence(
        schema=SCHEMA_VERSION,
        graph="grounder",
        buffers={},
        weights=None,
        steps=(
            Launch(cubin="step", grid=("N", "cdiv T 16", 1), arguments={"clips": "T"}),
            Call(engine="heads", tensors={"x": "v"}),
        ),
    )
    text = msgspec.json.encode(sequence)
    names = ("grounder", "text_encoder")
    bundle = bundle_with(tmp_path, {f"{name}.launches.json": text for name in names})
    assert read_sequence(bundle, "sm_90", "grounder") == sequence
    assert read_cubins(bundle, "sm_90") == {}
    with pytest.raises(BundleDamagedError, match="expected 'text_encoder'"):
        read_sequence(bundle, "sm_90", "text_encoder")


SYMBOLS = {"T": 75, "N": 2}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (7, 7),
        ("T", 75),
        ("cdiv T 16", 5),
        ("// T 16", 4),
        ("max 1 min 16 // * T N 128", 1),
        ("- + T 1 N", 74),
    ],
)
def test_expressions(expression: Extent, value: int) -> None:
    assert extent(expression, SYMBOLS) == value


@pytest.mark.parametrize("expression", ["", "Q", "+ 1", "1 2", "// 1 0", "cdiv 1 - N N", "-1", "²"])
def test_wrong_expressions_are_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"'.*'"):
        extent(expression, SYMBOLS)


@given(st.integers(0, 10**6), st.integers(1, 10**4))
def test_cdiv_rounds_up(a: int, b: int) -> None:
    assert (extent(f"cdiv {a} {b}", {}) - 1) * b < a <= extent(f"cdiv {a} {b}", {}) * b or a == 0
