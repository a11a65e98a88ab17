"""Kernels put into a bundle by the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from r2rt.engines.tensorrt.cubins import read_cubins
from r2rt.model.bundle import Bundle
from r2rt.model.manifest import MANIFEST_NAME
from tests.conftest import CHECKOUT
from tests.export.kernel_bundle import PUBLISHED, compile_kernels, compiled
from tests.r2rt.bundles import DIMS, write_bundle

pytest.importorskip("triton", reason="kernels are compiled by triton: pip install triton")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return compiled(tmp_path_factory.mktemp("bundle"), (89,))


def test_records_say_how_a_kernel_is_launched(bundle: Bundle) -> None:
    cubins = read_cubins(bundle, "sm_89")
    first, following = (cubins[f"frame_step-{x}-fp16"].record for x in ("first", "next"))
    assert first.entry == "_frame_step"
    assert first.triton
    assert first.constexprs["D"] == 256
    assert cubins["layer_pool-fp16"].record.constexprs["P"] == 50
    before = {"sums_ptr", "last_norm_weight_ptr", "last_norm_bias_ptr"}
    assert all(first.constexprs[name] is None for name in before)
    names = [argument.name for argument in following.arguments]
    assert names[:4] == ["pooled_ptr", "keys_ptr", "values_ptr", "biases_ptr"]
    assert [a.name for a in first.arguments] == [x for x in names if x not in before]
    by_name = {argument.name: argument for argument in following.arguments}
    assert by_name["keys_ptr"].type == "*fp16"
    assert by_name["mixed_ptr"].type == "*fp32"
    assert by_name["keys_ptr"].divisible_by == 16
    assert by_name["biases_ptr"].divisible_by == 1  # a layer begins at a multiple of H·L
    assert by_name["query_tokens"].divisible_by == 1
    assert by_name["clips"].divisible_by == 1
    assert cubins["finalize-fp16"].record.constexprs["CHANNELS"] == 768
    # Scratch would have to be allocated for every launch.
    assert not any(c.record.global_scratch_bytes for c in cubins.values())


def test_kernels_change_no_answer_and_name_no_path(bundle: Bundle, tmp_path: Path) -> None:
    write_bundle(tmp_path / "plain", dims=PUBLISHED)
    assert bundle.fingerprint == Bundle.open(tmp_path / "plain").fingerprint
    for stem, cubin in read_cubins(bundle, "sm_89").items():
        assert str(CHECKOUT).encode() not in cubin.image, stem


@pytest.mark.slow
def test_the_same_sizes_give_the_same_bytes(tmp_path: Path) -> None:
    images = []
    for name in ("a", "b"):
        folder = tmp_path / name
        dims = dataclasses.replace(DIMS, patches=5, width=32)
        write_bundle(folder, dims=dims, heads=2)
        run = compile_kernels(
            folder, "--target", "9.0", "--quiet", R2RT_CACHE=str(tmp_path / f"cache-{name}")
        )
        assert (run.returncode, run.stderr) == (0, "")
        kernels = sorted((folder / "kernels" / "sm_90").iterdir())
        images.append({path.name: path.read_bytes() for path in kernels})
        listed = Bundle.open(folder).manifest.files
        assert {f"kernels/sm_90/{name}" for name in images[-1]} <= set(listed)
    assert images[0] == images[1]


def test_what_cannot_be_compiled_leaves_the_bundle_as_it_was(tmp_path: Path) -> None:
    write_bundle(tmp_path, dims=PUBLISHED)
    before = (tmp_path / MANIFEST_NAME).read_bytes()
    run = compile_kernels(tmp_path, "--target", "7.5")
    assert run.returncode == 2
    assert "'7.5' is none of 8.0, 8.9, 9.0, 10.0, 12.0" in run.stderr
    run = compile_kernels(tmp_path, TRITON_INTERPRET="1")
    assert run.returncode == 54
    assert "unset it to compile" in run.stderr
    write_bundle(tmp_path / "narrow")
    run = compile_kernels(tmp_path / "narrow")
    assert run.returncode == 54
    assert "the width is 8; compiled kernels take multiples of 16" in run.stderr
    assert (tmp_path / MANIFEST_NAME).read_bytes() == before
    assert not (tmp_path / "kernels").exists()


@pytest.mark.slow
def test_a_model_too_wide_for_the_registers_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path, dims=dataclasses.replace(PUBLISHED, width=512))
    run = compile_kernels(tmp_path, "--target", "12.0")
    assert run.returncode == 54
    assert "P = 50 and D = 512" in run.stderr
    assert "spill registers" in run.stderr
    assert not (tmp_path / "kernels").exists()
