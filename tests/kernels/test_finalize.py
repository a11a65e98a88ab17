from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.gpu_checks.samples import in_double
from kernels import finalize as kernel
from kernels.reference.finalize import finalize as reference
from kernels.tolerances import assert_close
from kernels.weights import pack_finalize
from tests.kernels.block_inputs import random_model
from tests.kernels.mutants import load_mutant
from training.model import R2Tuning

# clips, layers, patches, width
SHAPES = {
    "ones": (1, 1, 1, 32),
    "several programs": (3, 2, 50, 32),
    "published width": (2, 1, 9, 256),
    "odd width": (2, 2, 7, 48),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def make(shape: tuple[int, int, int, int]) -> tuple[R2Tuning, Tensor, Tensor, Tensor]:
    """A model, hidden states, what is stored of them (fp32), endpoints."""
    clips, layers, patches, width = shape
    model = random_model(width)
    hidden = torch.randn(clips, layers, patches, 24, dtype=torch.float64) + 0.5
    state = model.state_dict()
    mean = hidden.mean(dim=-1, keepdim=True)
    centred = hidden - mean
    weight = state["adapter.video_map.2.weight"] * state["adapter.video_map.0.weight"]
    weight = weight.double()[:, :24]
    stored = torch.cat((centred @ weight.T, mean, centred.square().sum(-1, keepdim=True)), dim=-1)
    index = torch.arange(clips, dtype=torch.float64)
    endpoints = torch.stack((index / clips, (index + 1) / clips), dim=-1)
    return model, hidden, stored.float(), endpoints.float()


def check(
    shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32, run: object = None
) -> None:
    model, _, stored, endpoints = make(shape)
    weights = pack_finalize(model.state_dict(), dtype=dtype, device="cpu")
    actual = (kernel.finalize if run is None else run)(stored, endpoints, weights)  # type: ignore[operator]
    expected = reference(stored.double(), endpoints.double(), in_double(weights))
    assert actual.dtype is dtype
    assert_close(actual, expected, dtype, "v")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_output_equals_fp64(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    check(shape, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 4, 577, 256), (2, 4, 50, 512)], ids=str)
def test_large_shapes_equal_fp64(shape: tuple[int, int, int, int]) -> None:
    for dtype in DTYPES:
        check(shape, dtype)


def test_output_equals_the_models_own_map_of_the_hidden_states() -> None:
    model, hidden, stored, endpoints = make((3, 2, 5, 32))
    weights = pack_finalize(model.state_dict(), dtype=torch.float32, device="cpu")
    block = model.double().adapter
    with torch.no_grad():
        layers = [block.map_video(hidden[None, :, i], endpoints.double()[None]) for i in range(2)]
    actual = kernel.finalize(stored, endpoints, weights)
    assert_close(actual, torch.stack([x[0] for x in layers], dim=1), torch.float32, "v")


MUTANTS = {
    "endpoints left out of the variance": (
        "CHANNELS * dm * dm + ds * ds + de * de",
        "CHANNELS * dm * dm",
    ),
    "clip of another token": ("clip = row // per_clip", "clip = row * 0"),
    "no rectification": ("layer_norm(tl.maximum(h, 0.0)", "layer_norm(h"),
}


@pytest.mark.parametrize(("old", "new"), MUTANTS.values(), ids=MUTANTS.keys())
def test_a_broken_kernel_is_caught(old: str, new: str, tmp_path: Path) -> None:
    mutant = load_mutant(tmp_path, "kernels.finalize", old, new)
    with pytest.raises(AssertionError, match="too far"):
        check((3, 2, 5, 32), run=mutant.finalize)
