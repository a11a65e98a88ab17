"""Random inputs and weights of the R² block, and the limits that results are held to."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kernels.finalize import FinalizeWeights
    from kernels.weights import R2BlockWeights

__all__ = [
    "DTYPES",
    "SIZES",
    "BlockInputs",
    "Sizes",
    "block_in_double",
    "block_inputs",
    "block_weights",
    "device",
    "finalize_weights",
    "in_double",
    "relative_error",
]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_W = TypeVar("_W")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a model: patches P, width D, attention heads, vision width, layers K."""

    patches: int
    width: int
    heads: int
    vision_width: int
    layers: int = 4


# In Triton's interpreter one number takes about as long as a whole frame on a GPU.
SIZES = {
    "cuda": Sizes(patches=50, width=256, heads=8, vision_width=768),
    "cpu": Sizes(patches=5, width=32, heads=4, vision_width=24),
}


def device() -> str:
    """Return `cuda` where PyTorch has a GPU, else `cpu`, where kernels are interpreted."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True, kw_only=True)
class BlockInputs:
    """v (T, K, P, D), q and q_key (N, K, L, D), query_mask (N, L): all queries but one are cut."""

    v: Tensor
    q: Tensor
    q_key: Tensor
    query_mask: Tensor

    def to(self, dtype: torch.dtype) -> BlockInputs:
        """Return the same with v and queries in another type."""
        return replace(self, v=self.v.to(dtype), q=self.q.to(dtype), q_key=self.q_key.to(dtype))


def block_inputs(
    sizes: Sizes, *, clips: int, queries: int, length: int, dtype: torch.dtype
) -> BlockInputs:
    """Return random inputs of the R² block."""
    where, generator = device(), torch.Generator(device=device()).manual_seed(clips)

    def normal(*shape: int, by: float = 1.0) -> Tensor:
        return (by * torch.randn(shape, generator=generator, device=where)).to(dtype)

    mask = torch.ones(queries, length, device=where)
    mask[1:, (length + 1) // 2 :] = 0
    layers, width = sizes.layers, sizes.width
    return BlockInputs(
        v=normal(clips, layers, sizes.patches, width),
        q=normal(queries, layers, length, width),
        q_key=normal(queries, layers, length, width, by=2 / math.sqrt(width)),
        query_mask=mask,
    )


def block_weights(sizes: Sizes, dtype: torch.dtype) -> R2BlockWeights:
    """Return random packed weights of the whole block; none is 0 or 1."""
    from kernels.frame_step import FrameStepWeights
    from kernels.query_maps import QueryMapWeights
    from kernels.time_step import TimeStepWeights
    from kernels.weights import R2BlockWeights

    generator, d = torch.Generator().manual_seed(0), sizes.width
    share = (d // sizes.heads) ** -0.5

    def matrix(*shape: int, by: float = 1.0) -> Tensor:
        x = by * torch.randn(shape, generator=generator) / math.sqrt(shape[-1])
        return x.to(device(), dtype)

    def vector(size: int, *, around: float = 0.0) -> Tensor:
        return (around + 0.3 * torch.randn(size, generator=generator)).to(device())

    query = QueryMapWeights(
        cross_q=matrix(d, d, by=2 * share),
        cross_q_bias=vector(d) * share,
        cross_k=matrix(d, d, by=2),
        cross_v=matrix(d, d),
        cross_out=matrix(d, d),
    )
    frame = FrameStepWeights(
        cross_out_bias=vector(d),
        norm_weight=vector(d, around=1),
        norm_bias=vector(d),
        qkv=matrix(3 * d, d),
        qkv_bias=vector(3 * d),
    )
    temporal = TimeStepWeights(
        out=matrix(d, d),
        out_bias=vector(d),
        norm_weight=vector(d, around=1),
        norm_bias=vector(d),
        hidden=matrix(4 * d, d),
        hidden_bias=vector(4 * d),
        back=matrix(4 * d, d, by=0.5),
        back_bias=vector(d),
        last_norm_weight=vector(d, around=1),
        last_norm_bias=vector(d),
    )
    return R2BlockWeights(
        scales=torch.tensor([0.3, -0.5, 0.7, 0.2], device=device()),
        gates=(0.4, 0.6, 0.5, 1.0),
        heads=sizes.heads,
        query=query,
        frame=frame,
        time=temporal,
    )


def finalize_weights(sizes: Sizes, dtype: torch.dtype) -> FinalizeWeights:
    """Return random weights of the video map's second half."""
    from kernels.finalize import FinalizeWeights

    generator, d = torch.Generator().manual_seed(3), sizes.width

    def vector(*shape: int, around: float = 0.0) -> Tensor:
        return (around + 0.3 * torch.randn(shape, generator=generator)).to(device())

    linear = torch.randn(d, d, generator=generator) / math.sqrt(d)
    return FinalizeWeights(
        rows=vector(4, d),
        norm_weight=vector(d, around=1),
        norm_bias=vector(d),
        linear=linear.to(device(), dtype),
        linear_bias=vector(d),
        channels=sizes.vision_width,
    )


def block_in_double(weights: R2BlockWeights) -> R2BlockWeights:
    """Return the weights of the block with all tensors in fp64."""
    return replace(
        in_double(weights),
        query=in_double(weights.query),
        frame=in_double(weights.frame),
        time=in_double(weights.time),
    )


def in_double(weights: _W) -> _W:
    """Return a dataclass of weights with its tensors in fp64."""
    tensors = {
        field.name: value.double()
        for field in fields(weights)  # type: ignore[arg-type]
        if isinstance(value := getattr(weights, field.name), Tensor)
    }
    return replace(weights, **tensors)  # type: ignore[type-var]


def relative_error(actual: Tensor, expected: Tensor, what: str, *, limit: float) -> float:
    """Return ‖actual - expected‖ / ‖expected‖ in fp64.

    Raises:
        AssertionError: a shape differs, a number is not finite, or the error is over the limit.
    """
    assert actual.shape == expected.shape, f"{what} is {actual.shape}, expected {expected.shape}"
    assert bool(actual.isfinite().all()), f"{what}: not all numbers are finite"
    actual, expected = actual.detach().double(), expected.detach().double()
    error = float((actual - expected).norm() / expected.norm().clamp_min(1e-12))
    assert error <= limit, f"{what} is off by {error:.2e} of its norm; the limit is {limit:.0e}"
    return error
