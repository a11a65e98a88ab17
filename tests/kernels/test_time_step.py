from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.gpu_checks.samples import in_double
from kernels import time_step as kernel
from kernels.reference.time_step import time_step as reference
from kernels.tolerances import assert_close
from kernels.weights import pack_r2_block
from tests.kernels.block_inputs import random_model
from tests.kernels.mutants import load_mutant

# clips, queries, width, heads
SHAPES = {
    "ones": (1, 1, 32, 8),
    "blocks of clips": (67, 1, 32, 8),
    "several queries": (5, 3, 64, 8),
    "published": (5, 1, 256, 8),
    "odd width": (3, 2, 48, 4),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(
    shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32, step: object = None
) -> None:
    clips, queries, width, heads = shape
    state = random_model(width, heads=heads).state_dict()
    weights = pack_r2_block(state, heads=heads, dtype=dtype, device="cpu").time
    mixed = torch.randn(queries, clips, width)
    qkv = torch.randn(queries, clips, 3 * width).to(dtype)
    run = kernel.time_step if step is None else step
    actual = run(mixed, qkv, weights, heads=heads)  # type: ignore[operator]
    expected = reference(mixed.double(), qkv.double(), in_double(weights), heads=heads)
    assert_close(actual, expected, dtype, "last")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_output_equals_fp64(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    check(shape, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(130, 1, 256, 8), (40, 1, 512, 8)], ids=str)
def test_large_shapes_equal_fp64(shape: tuple[int, int, int, int]) -> None:
    for dtype in DTYPES:
        check(shape, dtype)


def test_more_rows_a_program_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    many = kernel.time_step_tiling(clips=75, queries=1000, width=32, itemsize=4)
    assert many.rows == 32
    monkeypatch.setattr(kernel, "time_step_tiling", lambda **_: many)
    check((37, 2, 32, 8))


MUTANTS = {
    "padded clips take part": (
        'tl.where(real[None, :], matmul(q, tl.trans(k)), -float("inf"))',
        "matmul(q, tl.trans(k))",
    ),
    "no rectification": (
        "hidden = tl.maximum(matmul(rounded, tl.trans(weight)) + bias[None, :], 0.0)",
        "hidden = matmul(rounded, tl.trans(weight)) + bias[None, :]",
    ),
    "earlier clips are not rescaled": (
        "attended = attended * keep[:, None] + matmul(share, v)",
        "attended = attended + matmul(share, v)",
    ),
}


@pytest.mark.parametrize(("old", "new"), MUTANTS.values(), ids=MUTANTS.keys())
def test_a_broken_kernel_is_caught(old: str, new: str, tmp_path: Path) -> None:
    mutant = load_mutant(tmp_path, "kernels.time_step", old, new)
    with pytest.raises(AssertionError, match="too far"):
        check((67, 1, 32, 8), step=mutant.time_step)
