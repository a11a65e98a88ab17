from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks.gpu_checks.samples import in_double
from kernels import time_attention as attention
from kernels import time_step as kernel
from kernels.reference.time_step import time_step as reference
from kernels.tolerances import assert_close
from kernels.weights import pack_r2_block
from tests.kernels.block_inputs import random_model
from tests.kernels.mutants import load_mutant

pytestmark = pytest.mark.slow

# clips, queries, width, heads, parts
SHAPES = {
    "ones, parts without work": (1, 1, 32, 8, 8),
    "blocks of clips": (67, 1, 32, 8, 2),
    "several queries": (5, 3, 64, 8, 3),
    "published": (5, 1, 256, 8, 2),
    "odd width": (3, 2, 48, 4, 1),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(
    shape: tuple[int, int, int, int, int],
    dtype: torch.dtype = torch.float32,
    *,
    step: ModuleType = kernel,
    attend: ModuleType = attention,
) -> None:
    clips, queries, width, heads, parts = shape
    state = random_model(width, heads=heads).state_dict()
    weights = pack_r2_block(state, heads=heads, dtype=dtype, device="cpu").time
    mixed = torch.randn(queries, clips, width)
    qkv = torch.randn(queries, clips, 3 * width).to(dtype)
    attended = attend.time_attention(qkv, heads=heads)
    actual = step.settle(step.time_step(mixed, attended, weights, parts=parts))
    expected = reference(mixed.double(), qkv.double(), in_double(weights), heads=heads)
    assert_close(actual, expected, dtype, "last")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_output_equals_fp64(shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> None:
    check(shape, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(66, 1, 256, 8, 8), (17, 1, 512, 8, 1)], ids=str)
def test_large_shapes_equal_fp64(shape: tuple[int, int, int, int, int]) -> None:
    for dtype in DTYPES:
        check(shape, dtype)


MUTANTS = {
    "no rectification": (
        "hidden = tl.maximum(matmul(rounded, tl.trans(weight)) + bias[None, :], 0.0)",
        "hidden = matmul(rounded, tl.trans(weight)) + bias[None, :]",
    ),
    "every part adds the residual": ("x = tl.where(part == 0, x, 0.0)", "pass"),
    "a part of the hidden units twice": ("range(part * BLOCK_F, HIDDEN", "range(0, HIDDEN"),
    "a part left out": ("sums_ptr, at, inside, parts, size", "sums_ptr, at, inside, 1, size"),
}


@pytest.mark.parametrize(("old", "new"), MUTANTS.values(), ids=MUTANTS.keys())
def test_a_broken_kernel_is_caught(old: str, new: str, tmp_path: Path) -> None:
    mutant = load_mutant(tmp_path, "kernels.time_step", old, new)
    with pytest.raises(AssertionError, match="too far"):
        check((5, 1, 32, 8, 2), step=mutant)


ATTENTION_MUTANTS = {
    "padded clips take part": (
        'tl.where(real[None, :], matmul(q, tl.trans(k)), -float("inf"))',
        "matmul(q, tl.trans(k))",
    ),
    "earlier clips are not rescaled": (
        "attended = attended * keep[:, None] + matmul(share, v)",
        "attended = attended + matmul(share, v)",
    ),
    "heads mixed up": ("(3 * D) + head", "(3 * D)"),
}


@pytest.mark.parametrize(("old", "new"), ATTENTION_MUTANTS.values(), ids=ATTENTION_MUTANTS.keys())
def test_broken_attention_is_caught(old: str, new: str, tmp_path: Path) -> None:
    mutant = load_mutant(tmp_path, "kernels.time_attention", old, new)
    with pytest.raises(AssertionError, match="too far"):
        check((67, 1, 32, 8, 1), attend=mutant)
