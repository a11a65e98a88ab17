"""How far a kernel may be from its fp64 reference, by the type that it computes in, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

__all__ = ["TOLERANCES", "KernelTolerance", "assert_close"]


@dataclass(frozen=True, kw_only=True)
class KernelTolerance:
    """|actual - expected| <= rtol·|expected| + atol·(largest magnitude of expected)."""

    dtype: torch.dtype
    rtol: float
    atol: float
    why: str


TOLERANCES: Final = (
    KernelTolerance(
        dtype=torch.float32,
        rtol=1e-5,
        atol=2e-6,
        why="some hundred fp32 sums in another order, exp to 2 ulp",
    ),
    KernelTolerance(
        dtype=torch.float16,
        rtol=1e-3,
        atol=1e-3,
        why="11 bits: weights of the softmax and operands of a product are rounded once, to 5e-4",
    ),
    KernelTolerance(
        dtype=torch.bfloat16,
        rtol=1e-2,
        atol=1.5e-2,
        why="8 bits: the same roundings, to 4e-3, and up to three of them in a row",
    ),
)


def assert_close(
    actual: Tensor,
    expected: Tensor,
    dtype: torch.dtype,
    what: str,
    *,
    magnitude: float | None = None,
) -> None:
    """Compare a kernel's output with the reference's, computed from the same rounded inputs.

    Args:
        actual: the kernel's output.
        expected: the reference's, fp64.
        dtype: the type that the kernel computed in.
        what: names the output in the message.
        magnitude: what `atol` is a share of; the largest expected number by default. For sums whose
            terms cancel.

    Raises:
        AssertionError: shapes differ, a number is not finite, or one is too far away.
    """
    tolerance = next(t for t in TOLERANCES if t.dtype == dtype)
    if actual.shape != expected.shape:
        raise AssertionError(f"{what}: got {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    actual, expected = actual.detach().double(), expected.detach().double()
    if not actual.isfinite().all():
        raise AssertionError(f"{what}: not all numbers are finite")
    if not expected.numel():
        return
    size = float(expected.abs().max()) if magnitude is None else magnitude
    allowed = tolerance.rtol * expected.abs() + tolerance.atol * size
    excess = (actual - expected).abs() - allowed
    if float(excess.max()) > 0:
        at = int(excess.argmax())
        raise AssertionError(
            f"{what} in {dtype}: got {float(actual.flatten()[at])}, expected "
            f"{float(expected.flatten()[at])} +- {float(allowed.flatten()[at]):.2g} at {at}; "
            f"{int((excess > 0).sum())} of {excess.numel()} numbers are too far"
        )
