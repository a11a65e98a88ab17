from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.gpu_checks.samples import in_double
from kernels import frame_step as kernel
from kernels.reference.frame_step import frame_step as reference
from kernels.tolerances import assert_close
from kernels.weights import pack_r2_block
from tests.kernels.block_inputs import random_inputs, random_model
from tests.kernels.mutants import load_mutant

# clips, queries, length, width, heads
SHAPES = {
    "ones": (1, 1, 1, 32, 8),
    "several queries": (2, 3, 7, 64, 2),
    "blocks of clips and tokens": (17, 2, 20, 64, 4),
    "published": (2, 1, 9, 256, 8),
    "odd width": (2, 2, 3, 48, 2),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(
    shape: tuple[int, int, int, int, int],
    dtype: torch.dtype = torch.float32,
    step: object = None,
) -> None:
    clips, queries, length, width, heads = shape
    state = random_model(width, heads=heads).state_dict()
    weights = pack_r2_block(state, heads=heads, dtype=dtype, device="cpu").frame
    inputs = random_inputs(
        clips=clips, patches=1, queries=queries, length=length, width=width, layers=2
    ).to(dtype)
    pooled = torch.randn(queries, clips, width)
    run = kernel.frame_step if step is None else step
    for last in (None, torch.randn(queries, clips, width)):
        options = {"gate": 0.3, "heads": heads}
        actual = run(  # type: ignore[operator]
            pooled,
            inputs.q[:, 1],
            inputs.query_mask,
            last,
            weights,
            **options,
        )
        expected = reference(
            pooled.double(),
            inputs.q[:, 1].double(),
            inputs.query_mask,
            None if last is None else last.double(),
            in_double(weights),
            gate=0.3,
            heads=heads,
        )
        for name, got, wanted in zip(("mixed", "qkv"), actual, expected, strict=True):
            # Four roundings in a row: query, key, share and value of the attention.
            assert_close(got, wanted, dtype, name, magnitude=1.5 * float(wanted.abs().max()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_outputs_equal_fp64(shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> None:
    check(shape, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(2, 1, 77, 64, 8), (2, 2, 9, 256, 8), (1, 1, 9, 512, 8)], ids=str
)
def test_large_shapes_equal_fp64(shape: tuple[int, int, int, int, int]) -> None:
    for dtype in DTYPES:
        check(shape, dtype)


def test_a_query_without_tokens_gives_finite_numbers() -> None:
    weights = pack_r2_block(
        random_model(32).state_dict(), heads=8, dtype=torch.float32, device="cpu"
    )
    x = random_inputs(clips=2, patches=5, queries=2, length=3, width=32)
    mask = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    mixed, qkv = kernel.frame_step(
        torch.randn(2, 2, 32), x.q[:, 0], mask, None, weights.frame, gate=1, heads=8
    )
    assert mixed.isfinite().all()
    assert qkv.isfinite().all()


MUTANTS = {
    "gate the wrong way round": (
        "f = gate * f + (1.0 - gate) * tl.load(last_ptr + at, mask=inside, other=0.0)",
        "f = (1.0 - gate) * f + gate * tl.load(last_ptr + at, mask=inside, other=0.0)",
    ),
    "query mask dropped": ("if query_mask_ptr is not None:", "if False:"),
    "values with positions": (
        "content = mixed.to(qkv_weight_ptr.dtype.element_ty)",
        "content = placed",
    ),
    "heads mixed up": ("first_row = head * HEAD", "first_row = 0 * HEAD"),
    "no residual": ("layer_norm(f + attended + bias", "layer_norm(attended + bias"),
}


@pytest.mark.parametrize(("old", "new"), MUTANTS.values(), ids=MUTANTS.keys())
def test_a_broken_kernel_is_caught(old: str, new: str, tmp_path: Path) -> None:
    mutant = load_mutant(tmp_path, "kernels.frame_step", old, new)
    with pytest.raises(AssertionError, match="too far"):
        check((2, 2, 3, 32, 2), step=mutant.frame_step)
