"""Golden data: where it lies, how it is read, and the tolerances it is compared with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.losses import LossTargets
from training.model import R2Output, R2Tuning, decode_boundaries

GOLDEN = Path(__file__).resolve().parent / "golden"


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    rtol: float
    atol: float


# fp32 against fp32: what another order of summation may change.
INFERENCE = Tolerance(rtol=1e-4, atol=1e-5)
LOSSES = Tolerance(rtol=1e-3, atol=0.0)
# Biases that cancel in a softmax have gradients of 1e-9 that are rounding alone.
GRADIENTS = Tolerance(rtol=1e-3, atol=1e-7)
# fp32 autograd against central differences in fp64.
DIFFERENCES = Tolerance(rtol=1e-3, atol=1e-6)


def assert_golden(
    actual: NDArray[Any] | torch.Tensor | float,
    expected: NDArray[Any] | float,
    tolerance: Tolerance,
    what: str,
) -> None:
    """Compare shapes and values; NaN equals nothing."""
    if isinstance(actual, torch.Tensor):
        actual = actual.detach().cpu().numpy()
    assert np.shape(actual) == np.shape(expected), what
    np.testing.assert_allclose(
        np.asarray(actual, dtype=np.float64),
        np.asarray(expected, dtype=np.float64),
        rtol=tolerance.rtol,
        atol=tolerance.atol,
        equal_nan=False,
        err_msg=what,
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch from starting more threads than small tensors are worth."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def ground(model: R2Tuning, arrays: Mapping[str, NDArray[Any]]) -> R2Output:
    """Run a model on the inputs of one inference golden, a batch of one."""
    with torch.no_grad():
        output: R2Output = model(
            torch.from_numpy(arrays["video"]).float()[None],
            torch.from_numpy(arrays["query"]).float()[None],
        )
    return output


def assert_inference(model: R2Tuning, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Compare a model's saliency and, where there are any, its moments with a golden."""
    output = ground(model, arrays)
    assert_golden(output.saliency[0], arrays["saliency"], INFERENCE, "saliency")
    if "boundary" in arrays:
        moments = decode_boundaries(output, fps=float(arrays["fps"]))[0]
        assert_golden(moments, arrays["boundary"], INFERENCE, "boundary")


@dataclass(frozen=True, kw_only=True)
class LossGolden:
    video: torch.Tensor
    query: torch.Tensor
    video_mask: torch.Tensor
    query_mask: torch.Tensor
    targets: LossTargets
    losses: dict[str, float]
    grad_norms: dict[str, float]


def load_loss_golden(stem: Path, dtype: torch.dtype = torch.float32) -> LossGolden:
    """Read `stem`.npz and `stem`.json."""
    arrays = load_arrays(stem.with_suffix(".npz"))
    expected = json.loads(stem.with_suffix(".json").read_text())
    video = torch.from_numpy(arrays["video"]).to(dtype)
    query = torch.from_numpy(arrays["query"]).to(dtype)
    boundary = arrays.get("boundary")
    return LossGolden(
        video=video,
        query=query,
        video_mask=_prefix_mask(arrays["video_len"], video.shape[1]),
        query_mask=_prefix_mask(arrays["query_len"], query.shape[1]),
        targets=LossTargets(
            saliency=torch.from_numpy(arrays["saliency"]).to(dtype),
            pos_clip=torch.from_numpy(arrays["pos_clip"]),
            boundary_s=None if boundary is None else torch.from_numpy(boundary).to(dtype),
            fps=torch.full((video.shape[0],), float(arrays["fps"]), dtype=dtype),
        ),
        losses=expected["losses"],
        grad_norms=expected["grad_norms"],
    )


def _prefix_mask(lengths: NDArray[Any], size: int) -> torch.Tensor:
    return torch.arange(size)[None] < torch.from_numpy(lengths)[:, None]
