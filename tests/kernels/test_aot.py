"""Kernels compiled ahead of time, in processes of their own: those here interpret kernels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import triton
from triton.runtime.errors import PTXASError

from kernels.aot import KernelBuildError, compile_variant
from kernels.budgets import BUDGETS, broken_limits, over_budget
from kernels.sass import read_contents
from r2rt.engines.tensorrt.cubins import Cubin, read_cubins
from r2rt.model.bundle import Bundle
from tests.conftest import CHECKOUT
from tests.export.kernel_bundle import PUBLISHED, compile_kernels, compiled, compiling
from tests.r2rt.bundles import write_bundle

pytestmark = pytest.mark.slow

# Types by target. bf16 takes a target of each kind of product: HMMA, HGMMA, UTCHMMA; the first of
# them has the least shared memory.
TYPES = {
    80: ("fp16",),
    89: ("fp16", "bf16"),
    90: ("fp16", "bf16"),
    100: ("fp16", "bf16"),
    120: ("fp16",),
}
# The type and the target of products are what the instruction is called by.
TENSOR_CORES = {
    80: {"HMMA"},
    89: {"HMMA"},
    90: {"HMMA", "HGMMA"},
    100: {"HMMA", "UTCHMMA"},
    120: {"HMMA"},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Compiled for the target with the least shared memory."""
    return compiled(tmp_path_factory.mktemp("bundle"), (89,))


def check_budgets(cubins: dict[str, Cubin], target: int) -> set[str]:
    """Check every kernel, and return the tensor core instructions that are in any of them."""
    found = set()
    for stem, cubin in cubins.items():
        record, contents = cubin.record, read_contents(cubin.image)
        limits = {
            "shared_bytes": record.shared_bytes,
            "num_warps": record.num_warps,
            "capability": target,
        }
        assert not list(broken_limits(contents, **limits)), stem
        name = stem.rpartition("-")[0]
        assert not list(over_budget(name, contents, **limits)), stem
        found |= set(contents.tensor_cores)
    return found


def test_every_kernel_is_within_its_budget(bundle: Bundle) -> None:
    cubins = read_cubins(bundle, "sm_89")
    assert {stem.rpartition("-")[0] for stem in cubins} == set(BUDGETS)
    assert check_budgets(cubins, 89) == TENSOR_CORES[89]


@pytest.mark.slow
@pytest.mark.parametrize("target", TYPES)
def test_every_kernel_is_within_its_budget_on_every_target(target: int, tmp_path: Path) -> None:
    types = TYPES[target]
    options = [x for name in types for x in ("--dtype", name)]
    bundle = compiled(tmp_path / "b", (target,), *options)
    cubins = read_cubins(bundle, f"sm_{target}")
    assert len(cubins) == len(types) * len(BUDGETS)
    assert check_budgets(cubins, target) == TENSOR_CORES[target]


def test_what_ptxas_refuses_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PTXASError("ptxas fatal\nUnsupported .version 9.9")

    monkeypatch.setattr(triton, "compile", refuse)
    monkeypatch.setattr(triton.compiler, "ASTSource", lambda **_: None)
    variant: Any = SimpleNamespace(
        stem="scale-fp16",
        function=SimpleNamespace(arg_names=[]),
        types={},
        constexprs={},
        divisible_by={},
        num_warps=4,
        num_stages=1,
    )
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = False
        with pytest.raises(KernelBuildError, match=r"scale-fp16 for sm_89: Unsupported \.version"):
            compile_variant(variant, 89)


# Compiled for sm_89: as it is, and with one thing after another made worse.
_BAD = """
import dataclasses, json, sys
sys.path.insert(0, sys.argv[1])
from kernels.aot import compile_variant
from kernels.budgets import broken_limits, over_budget
from kernels.variants import KernelDims, kernel_variants

dims = KernelDims(patches=50, width=256, length=77, heads=8, channels=768)
good = next(v for v in kernel_variants(dims, "fp16") if v.stem == "time_step-fp16")
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
        *over_budget("time_step", kernel.contents, **limits),
    ]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_bad_kernels_exceed_their_budgets() -> None:
    run = compiling(["-c", _BAD, str(CHECKOUT)])
    assert run.returncode == 0, run.stderr
    found = {name: "; ".join(problems) for name, problems in json.loads(run.stdout).items()}
    assert found["good"] == ""
    assert "registers, the budget is 128" in found["few warps"]
    assert "none of" in found["unaligned"]
    assert "no product on tensor cores" in found["fp32"]
    assert "bytes of shared memory, a block can have 101376" in found["deep"]


@pytest.mark.slow
@pytest.mark.parametrize(("patches", "width"), [(197, 256), (1025, 256), (50, 128)])
def test_other_sizes_are_within_the_limits(tmp_path: Path, patches: int, width: int) -> None:
    write_bundle(tmp_path, dims=dataclasses.replace(PUBLISHED, patches=patches, width=width))
    run = compile_kernels(tmp_path, "--target", "8.9", "--target", "9.0")
    assert run.returncode == 0, run.stderr
