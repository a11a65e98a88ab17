from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kernels.layer_pool import layer_pool
from kernels.reference.layer_pool import layer_pool as reference
from kernels.tolerances import assert_close
from tests.kernels.block_inputs import random_inputs
from tests.kernels.mutants import load_mutant

# clips, patches, queries, length, width
SHAPES = {
    "ones": (1, 1, 1, 1, 32),
    "several queries": (2, 50, 3, 7, 64),
    "blocks of patches and tokens": (1, 70, 2, 20, 64),
    "published": (2, 50, 1, 9, 256),
    "odd width": (2, 9, 2, 3, 48),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(
    shape: tuple[int, int, int, int, int],
    dtype: torch.dtype = torch.float32,
    pool: object = layer_pool,
) -> None:
    clips, patches, queries, length, width = shape
    x = random_inputs(
        clips=clips, patches=patches, queries=queries, length=length, width=width, layers=3
    ).to(dtype)
    scales = torch.tensor([0.7, -0.4, 0.2])
    actual = pool(x.v, x.q, x.q_key, x.query_mask, scales)  # type: ignore[operator]
    expected = reference(
        x.v.double(), x.q.double(), x.q_key.double(), x.query_mask, scales.double()
    )
    assert actual.dtype == torch.float32
    assert_close(actual, expected, dtype, "pooled")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_pooled_frames_equal_fp64(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype
) -> None:
    check(shape, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 577, 1, 77, 64), (2, 197, 2, 9, 256)], ids=str)
def test_large_shapes_equal_fp64(shape: tuple[int, int, int, int, int]) -> None:
    for dtype in DTYPES:
        check(shape, dtype)


def test_a_query_without_tokens_has_the_frames_class_token() -> None:
    x = random_inputs(clips=2, patches=5, queries=2, length=3, width=32)
    mask = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    pooled = layer_pool(x.v, x.q, x.q_key, mask, torch.ones(4))
    torch.testing.assert_close(pooled[:, 1], x.v[:, :, 0].transpose(0, 1))


def test_without_a_mask_every_token_is_real() -> None:
    x = random_inputs(clips=1, patches=5, queries=1, length=3, width=32)
    scales = torch.ones(4)
    with_mask = layer_pool(x.v, x.q, x.q_key, torch.ones(1, 3), scales)
    torch.testing.assert_close(layer_pool(x.v, x.q, x.q_key, None, scales), with_mask)


MUTANTS = {
    "layers mixed up": ("(clip * layers + layer) * (P * D)", "(clip * layers) * (P * D)"),
    "one scale for all": ("tl.load(scales_ptr + layer)", "tl.load(scales_ptr)"),
    "query mask dropped": ("if query_mask_ptr is not None:", "if False:"),
    "queries and clips mixed up": (
        "((layer * queries + query) * clips + clip) * D",
        "((layer * clips + clip) * queries + query) * D",
    ),
    "no class token": ("pooled = cls +", "pooled = 0 * cls +"),
}


@pytest.mark.parametrize(("old", "new"), MUTANTS.values(), ids=MUTANTS.keys())
def test_a_broken_kernel_is_caught(old: str, new: str, tmp_path: Path) -> None:
    mutant = load_mutant(tmp_path, "kernels.layer_pool", old, new)
    with pytest.raises(AssertionError, match="too far"):
        check((3, 5, 2, 3, 32), pool=mutant.layer_pool)
