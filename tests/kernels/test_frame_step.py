from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels import frame_step as kernel
from kernels.reference.frame_step import frame_step as reference
from kernels.tolerances import assert_close
from kernels.weights import pack_r2_block
from tests.kernels.block_inputs import as_double, random_inputs, random_model
from tests.kernels.mutants import load_mutant

# clips, patches, queries, length, width, heads
SHAPES = {
    "ones": (1, 1, 1, 1, 32, 8),
    "several queries": (2, 50, 3, 7, 64, 2),
    "blocks of patches and tokens": (1, 70, 2, 20, 64, 4),
    "published": (2, 50, 1, 9, 256, 8),
    "odd width": (2, 9, 2, 3, 48, 2),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(
    shape: tuple[int, int, int, int, int, int],
    dtype: torch.dtype = torch.float32,
    step: object = None,
) -> None:
    clips, patches, queries, length, width, heads = shape
    state = random_model(width, heads=heads).state_dict()
    weights = pack_r2_block(state, heads=heads, dtype=dtype, device="cpu").frame
    inputs = random_inputs(
        clips=clips, patches=patches, queries=queries, length=length, width=width, layers=2
    ).to(dtype)
    run = kernel.frame_step if step is None else step
    for last in (None, torch.randn(queries, clips, width)):
        options = {"scale": 0.7, "gate": 0.3, "heads": heads}
        actual = run(  # type: ignore[operator]
            inputs.v[:, 1],
            inputs.q[:, 1],
            inputs.q_key[:, 1],
            inputs.query_mask,
            last,
            weights,
            **options,
        )
        expected = reference(
            inputs.v[:, 1].double(),
            inputs.q[:, 1].double(),
            inputs.q_key[:, 1].double(),
            inputs.query_mask,
            None if last is None else last.double(),
            as_double(weights),
            scale=0.7,
            gate=0.3,
            heads=heads,
        )
        for name, got, wanted in zip(("mixed", "qkv"), actual, expected, strict=True):
            assert_close(got, wanted, dtype, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_outputs_equal_fp64(shape: tuple[int, int, int, int, int, int], dtype: torch.dtype) -> None:
    check(shape, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(2, 577, 1, 77, 64, 8), (2, 197, 2, 9, 256, 8), (1, 50, 1, 9, 512, 8)], ids=str
)
def test_large_shapes_equal_fp64(shape: tuple[int, int, int, int, int, int]) -> None:
    for dtype in DTYPES:
        check(shape, dtype)


def test_a_query_without_tokens_gives_finite_numbers() -> None:
    weights = pack_r2_block(
        random_model(32).state_dict(), heads=8, dtype=torch.float32, device="cpu"
    )
    x = random_inputs(clips=2, patches=5, queries=2, length=3, width=32)
    mask = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    mixed, qkv = kernel.frame_step(
        x.v[:, 0], x.q[:, 0], x.q_key[:, 0], mask, None, weights.frame, scale=0.5, gate=1, heads=8
    )
    assert mixed.isfinite().all()
    assert qkv.isfinite().all()


def test_programs_share_clips_only_when_there_are_many() -> None:
    def span(clips: int, queries: int) -> int:
        return kernel.frame_step_tiling(
            clips=clips,
            queries=queries,
            patches=50,
            length=16,
            width=256,
            itemsize=2,
            multiprocessors=132,
        ).span

    assert span(75, 1) == 1
    assert span(132, 1) == 1
    assert span(133, 1) == 2
    assert span(75, 8) == 5
    assert span(600, 100) == 16


@pytest.mark.parametrize("span", [3, 16])
def test_the_number_of_clips_a_program_changes_nothing(
    span: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = kernel.frame_step_tiling

    def tiling(**sizes: int) -> kernel.FrameStepTiling:
        return replace(original(**sizes), span=span)

    monkeypatch.setattr(kernel, "frame_step_tiling", tiling)
    check((17, 5, 1, 3, 32, 2))


MUTANTS = {
    "gate the wrong way round": (
        "f = gate * f + (1.0 - gate) * tl.load(last_ptr + at, mask=inside, other=0.0)",
        "f = (1.0 - gate) * f + gate * tl.load(last_ptr + at, mask=inside, other=0.0)",
    ),
    "query mask dropped": (
        "real = tl.load(mask_ptr + token, mask=real, other=0) != 0",
        "real = token < length",
    ),
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
        check((2, 5, 2, 3, 32, 2), step=mutant.frame_step)
