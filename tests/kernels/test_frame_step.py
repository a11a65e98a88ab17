from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from benchmarks.gpu_checks.samples import in_double
from kernels import frame_step as kernel
from kernels import query_maps as maps_kernel
from kernels.reference.frame_step import frame_step as reference
from kernels.time_step import StepSums
from kernels.tolerances import assert_close
from kernels.weights import pack_r2_block
from tests.kernels.block_inputs import random_inputs, random_model
from tests.kernels.mutants import load_mutant

pytestmark = pytest.mark.slow

# clips, queries, length, width, heads, parts
SHAPES = {
    "ones, parts without work": (1, 1, 1, 32, 8, 8),
    "several queries": (2, 3, 7, 64, 2, 3),
    "blocks of clips and tokens": (17, 1, 17, 32, 2, 2),
    "published": (2, 1, 9, 256, 8, 2),
    "odd width and heads": (2, 2, 3, 48, 3, 2),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(
    shape: tuple[int, int, int, int, int, int],
    dtype: torch.dtype = torch.float32,
    *,
    step: ModuleType = kernel,
    maps: ModuleType = maps_kernel,
) -> None:
    clips, queries, length, width, heads, parts = shape
    state = random_model(width, heads=heads).state_dict()
    weights = pack_r2_block(state, heads=heads, dtype=dtype, device="cpu")
    inputs = random_inputs(
        clips=clips, patches=1, queries=queries, length=length, width=width, layers=2
    ).to(dtype)
    pooled = torch.randn(queries, clips, width)
    mapped = maps.query_maps(inputs.q, inputs.query_mask, weights.query, heads=heads)
    norm = {"norm_weight": torch.randn(width), "norm_bias": torch.randn(width)}
    sums = torch.randn(parts, queries, clips, width)
    last = F.layer_norm(
        sums.double().sum(0),
        (width,),
        norm["norm_weight"].double(),
        norm["norm_bias"].double(),
    )
    for before, normed in ((None, None), (StepSums(sums=sums, **norm), last)):
        actual = step.frame_step(pooled, mapped, 1, before, weights.frame, gate=0.3, parts=parts)
        expected = reference(
            pooled.double(),
            inputs.q[:, 1].double(),
            inputs.query_mask,
            normed,
            in_double(weights.query),
            in_double(weights.frame),
            gate=0.3,
            heads=heads,
        )
        for name, got, wanted in zip(("mixed", "qkv"), actual, expected, strict=True):
            # Four roundings in a row: projection, key, share and value of the attention.
            assert_close(got, wanted, dtype, name, magnitude=2 * float(wanted.abs().max()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_outputs_equal_fp64(shape: tuple[int, int, int, int, int, int], dtype: torch.dtype) -> None:
    check(shape, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(2, 1, 77, 64, 8, 1), (2, 1, 17, 256, 8, 8), (1, 1, 9, 512, 8, 1)], ids=str
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
    maps = maps_kernel.query_maps(x.q, mask, weights.query, heads=8)
    mixed, qkv = kernel.frame_step(torch.randn(2, 2, 32), maps, 0, None, weights.frame, gate=1)
    assert mixed.isfinite().all()
    assert qkv.isfinite().all()


MUTANTS = {
    "gate the wrong way round": (
        "f = gate * f + (1.0 - gate) * last",
        "f = (1.0 - gate) * f + gate * last",
    ),
    "values with positions": (
        "content = mixed.to(qkv_weight_ptr.dtype.element_ty)",
        "content = placed",
    ),
    "heads mixed up": ("at = (head * length + token)[:, None]", "at = (0 * head + token)[:, None]"),
    "no residual": ("layer_norm(f + attended + bias", "layer_norm(attended + bias"),
    "a part left out": ("parts, size, PARTS)", "parts - 1, size, PARTS)"),
    "earlier tokens are not rescaled": (
        "total = total * tl.exp(top - shift) + tl.sum(",
        "total = total + tl.sum(",
    ),
    "padded tokens take part": ('mask=real, other=-float("inf"))', "mask=real, other=0.0)"),
}


@pytest.mark.parametrize(("old", "new"), MUTANTS.values(), ids=MUTANTS.keys())
def test_a_broken_kernel_is_caught(old: str, new: str, tmp_path: Path) -> None:
    mutant = load_mutant(tmp_path, "kernels.frame_step", old, new)
    with pytest.raises(AssertionError, match="too far"):
        check((4, 2, 33, 32, 2, 2), step=mutant)


QUERY_MUTANTS = {
    "query mask dropped": ("if query_mask_ptr is not None:", "if False:"),
    "layers mixed up": (
        "q_ptr + layer * length * D",
        "q_ptr + query * tl.num_programs(1) * length * D",
    ),
    "heads mixed up": ("first_row = tl.program_id(2) * HEAD", "first_row = 0 * HEAD"),
    "bias of queries dropped": ("projected * q_bias[None, :]", "projected * 0.0"),
}


@pytest.mark.parametrize(("old", "new"), QUERY_MUTANTS.values(), ids=QUERY_MUTANTS.keys())
def test_a_broken_map_of_the_query_is_caught(old: str, new: str, tmp_path: Path) -> None:
    mutant = load_mutant(tmp_path, "kernels.query_maps", old, new)
    with pytest.raises(AssertionError, match="too far"):
        check((2, 2, 3, 32, 2, 1), maps=mutant)
