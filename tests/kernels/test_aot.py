"""Kernels compiled ahead of time, in processes of their own: those here interpret kernels."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.budgets import BUDGETS, broken_limits, over_budget
from kernels.sass import read_contents
from r2rt.bundle import MANIFEST_NAME, Bundle
from r2rt.engines.cubins import Cubin, read_cubins
from tests.r2rt.bundles import DIMS, write_bundle

CHECKOUT = Path(__file__).resolve().parents[2]
PUBLISHED = dataclasses.replace(DIMS, patches=50, width=256, layers=4)
ALL_TARGETS = (80, 89, 90, 100, 120)
# The type and the target of products are what the instruction is called by.
TENSOR_CORES = {
    80: {"HMMA"},
    89: {"HMMA"},
    90: {"HMMA", "HGMMA"},
    100: {"HMMA", "UTCHMMA"},
    120: {"HMMA"},
}


def compiling(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        env={**variables, **environment},
    )


def aot(bundle: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = str(CHECKOUT / "kernels" / "aot.py")
    return compiling([script, str(bundle), *arguments], **environment)


def compiled(folder: Path, targets: tuple[int, ...], *arguments: str) -> Bundle:
    write_bundle(folder, dims=PUBLISHED)
    options = [x for t in targets for x in ("--target", f"{t / 10:.1f}")]
    run = aot(folder, *options, *arguments)
    assert run.returncode == 0, run.stderr
    return Bundle.open(folder, verify="always")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Compiled for the target with the least shared memory."""
    return compiled(tmp_path_factory.mktemp("bundle"), (89,))


def check_budgets(cubins: dict[str, Cubin], target: int) -> None:
    for stem, cubin in cubins.items():
        record, contents = cubin.record, read_contents(cubin.image)
        assert set(contents.tensor_cores) <= TENSOR_CORES[target], stem
        limits = {
            "shared_bytes": record.shared_bytes,
            "num_warps": record.num_warps,
            "capability": target,
        }
        assert not list(broken_limits(contents, **limits)), stem
        name = stem.rpartition("-")[0]
        assert not list(over_budget(name, contents, **limits)), stem


def test_every_kernel_is_within_its_budget(bundle: Bundle) -> None:
    cubins = read_cubins(bundle, "sm_89")
    assert {stem.rpartition("-")[0] for stem in cubins} == set(BUDGETS)
    check_budgets(cubins, 89)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_kernel_is_within_its_budget_on_every_target(tmp_path: Path) -> None:
    bundle = compiled(tmp_path / "b", ALL_TARGETS, "--dtype", "fp16", "--dtype", "bf16")
    found = set()
    for target in ALL_TARGETS:
        cubins = read_cubins(bundle, f"sm_{target}")
        assert len(cubins) == 2 * len(BUDGETS)
        check_budgets(cubins, target)
        for cubin in cubins.values():
            found |= {(target, name) for name in read_contents(cubin.image).tensor_cores}
    assert found == {(t, name) for t, names in TENSOR_CORES.items() for name in names}


def test_records_say_how_a_kernel_is_launched(bundle: Bundle) -> None:
    cubins = read_cubins(bundle, "sm_89")
    first, following = (cubins[f"frame_step-{x}-fp16"].record for x in ("first", "next"))
    assert first.entry == "_frame_step"
    assert first.triton
    assert first.constexprs["D"] == 256
    assert first.constexprs["P"] == 50
    assert first.constexprs["last_ptr"] is None
    names = [argument.name for argument in following.arguments]
    assert names[:5] == ["v_ptr", "q_ptr", "key_ptr", "query_mask_ptr", "last_ptr"]
    assert [a.name for a in first.arguments] == [x for x in names if x != "last_ptr"]
    by_name = {argument.name: argument for argument in following.arguments}
    assert by_name["v_ptr"].type == "*fp16"
    assert by_name["mixed_ptr"].type == "*fp32"
    assert by_name["v_ptr"].divisible_by == 16
    assert by_name["stride_clip"].divisible_by == 16
    assert by_name["clips"].divisible_by == 1
    assert cubins["finalize-fp16"].record.constexprs["CHANNELS"] == 768
    # Scratch would have to be allocated for every launch.
    assert not any(c.record.global_scratch_bytes for c in cubins.values())


def test_kernels_change_no_answer_and_name_no_path(bundle: Bundle, tmp_path: Path) -> None:
    write_bundle(tmp_path / "plain", dims=PUBLISHED)
    assert bundle.fingerprint == Bundle.open(tmp_path / "plain").fingerprint
    for stem, cubin in read_cubins(bundle, "sm_89").items():
        assert str(CHECKOUT).encode() not in cubin.image, stem


def test_the_same_sizes_give_the_same_bytes(tmp_path: Path) -> None:
    images = []
    for name in ("a", "b"):
        folder = tmp_path / name
        dims = dataclasses.replace(DIMS, patches=5, width=32)
        write_bundle(folder, dims=dims, heads=2)
        run = aot(folder, "--target", "9.0", "--quiet", R2RT_CACHE=str(tmp_path / f"cache-{name}"))
        assert (run.returncode, run.stderr) == (0, "")
        kernels = sorted((folder / "kernels" / "sm_90").iterdir())
        images.append({path.name: path.read_bytes() for path in kernels})
        listed = Bundle.open(folder).manifest.files
        assert {f"kernels/sm_90/{name}" for name in images[-1]} <= set(listed)
    assert images[0] == images[1]


# Compiled for sm_89: as it is, and with one thing after another made worse.
_BAD = """
import dataclasses, json, sys
sys.path.insert(0, sys.argv[1])
from kernels.aot import compile_variant
from kernels.budgets import broken_limits, over_budget
from kernels.variants import KernelDims, kernel_variants

dims = KernelDims(patches=50, width=256, length=77, heads=8, channels=768)
good = next(v for v in kernel_variants(dims, "fp16") if v.stem == "time_step-few-fp16")
wide = {name: kind.replace("fp16", "fp32") for name, kind in good.types.items()}
found = {}
for name, changes in {
    "good": {},
    "few warps": {"num_warps": 2},
    "unaligned": {"divisible_by": {}},
    "fp32": {"types": wide},
    "deep": {"num_stages": 9},
}.items():
    kernel = compile_variant(dataclasses.replace(good, **changes), 89)
    limits = {
        "shared_bytes": kernel.record.shared_bytes,
        "num_warps": kernel.record.num_warps,
        "capability": 89,
    }
    found[name] = [
        *broken_limits(kernel.contents, **limits),
        *over_budget("time_step-few", kernel.contents, **limits),
    ]
print(json.dumps(found))
"""


def test_bad_kernels_exceed_their_budgets() -> None:
    run = compiling(["-c", _BAD, str(CHECKOUT)])
    assert run.returncode == 0, run.stderr
    found = {name: "; ".join(problems) for name, problems in json.loads(run.stdout).items()}
    assert found["good"] == ""
    assert "registers, the budget is 128" in found["few warps"]
    assert "none of" in found["unaligned"]
    assert "no product on tensor cores" in found["fp32"]
    assert "bytes of shared memory, a block can have 101376" in found["deep"]


def test_what_cannot_be_compiled_leaves_the_bundle_as_it_was(tmp_path: Path) -> None:
    write_bundle(tmp_path, dims=PUBLISHED)
    before = (tmp_path / MANIFEST_NAME).read_bytes()
    run = aot(tmp_path, "--target", "7.5")
    assert run.returncode == 2
    assert "'7.5' is none of 8.0, 8.9, 9.0, 10.0, 12.0" in run.stderr
    run = aot(tmp_path, TRITON_INTERPRET="1")
    assert run.returncode == 54
    assert "unset it to compile" in run.stderr
    write_bundle(tmp_path / "narrow")
    run = aot(tmp_path / "narrow")
    assert run.returncode == 54
    assert "the width is 8; compiled kernels take multiples of 16" in run.stderr
    assert (tmp_path / MANIFEST_NAME).read_bytes() == before
    assert not (tmp_path / "kernels").exists()


@pytest.mark.slow
def test_a_model_too_wide_for_the_registers_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path, dims=dataclasses.replace(PUBLISHED, width=512))
    run = aot(tmp_path, "--target", "9.0")
    assert run.returncode == 54
    assert "P = 50 and D = 512" in run.stderr
    assert "spill registers" in run.stderr
    assert not (tmp_path / "kernels").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("patches", "width"), [(197, 256), (577, 256), (50, 128)])
def test_other_sizes_are_within_the_limits(tmp_path: Path, patches: int, width: int) -> None:
    write_bundle(tmp_path, dims=dataclasses.replace(PUBLISHED, patches=patches, width=width))
    run = aot(tmp_path, "--target", "8.9", "--target", "9.0")
    assert run.returncode == 0, run.stderr
