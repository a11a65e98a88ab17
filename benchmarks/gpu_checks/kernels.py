"""Every Triton kernel against its reference in fp64, by Triton's just-in-time compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_checks.rows import attempt
from benchmarks.gpu_checks.samples import (
    DTYPES,
    SIZES,
    block_in_double,
    block_inputs,
    block_weights,
    device,
    finalize_weights,
    in_double,
    relative_error,
)

__all__ = [
    "check_block",
    "check_pool",
    "check_small",
    "run_pool_for_the_sanitizer",
    "stored_tokens",
]

# Limits of the error of a whole result, relative to its norm. The types have 24, 11 and 8 bits, and
# a result has passed through up to 8 kernels.
_BLOCK = {"fp32": 1e-5, "fp16": 4e-3, "bf16": 3e-2}
# The maximum over tokens takes another token where two agree to within rounding, and that token's
# gradient goes elsewhere as a whole.
_POOL = {"fp32": 1e-4, "fp16": 3e-2, "bf16": 1.5e-1}
_FINALIZE = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1.5e-2}

# Clips, queries, query tokens: one, few, more than a block, more than a wave.
_BLOCK_SHAPES = {
    "cuda": (
        *((75, 1, 12), (75, 1, 16), (1, 1, 1), (13, 3, 77), (129, 1, 17)),
        *((256, 8, 24), (1000, 1, 12), (8200, 1, 12)),
    ),
    "cpu": ((2, 1, 3), (3, 2, 5)),
}
# Videos, clips, queries, query tokens.
_POOL_SHAPES = {
    "cuda": ((4, 75, 1, 12), (2, 33, 3, 17), (1, 1, 1, 1), (2, 64, 2, 77)),
    "cpu": ((1, 2, 1, 3),),
}
_FINALIZE_CLIPS = {"cuda": (1, 11, 64, 75, 1000), "cpu": (2,)}


def check_block(kind: str) -> None:
    """Check `frame_step` and `time_step` as the whole block; two runs must be equal."""
    from kernels.r2_block import r2_block
    from kernels.reference.r2_block import r2_block as reference

    sizes, dtype = SIZES[device()], DTYPES[kind]
    weights = block_weights(sizes, dtype)
    exact = block_in_double(weights)

    def check(clips: int, queries: int, length: int) -> dict[str, float]:
        x = block_inputs(sizes, clips=clips, queries=queries, length=length, dtype=dtype)
        got = r2_block(x.v, x.q, x.q_key, x.query_mask, weights)
        again = r2_block(x.v, x.q, x.q_key, x.query_mask, weights)
        assert torch.equal(got, again), "two runs differ"
        v = x.v.double()
        parts = [slice(n, n + 1) for n in range(queries)]  # the reference takes much memory
        expected = torch.cat(
            [
                reference(v, x.q[n].double(), x.q_key[n].double(), x.query_mask[n], exact)
                for n in parts
            ]
        )
        return {"error": relative_error(got, expected, "last", limit=_BLOCK[kind])}

    for clips, queries, length in _BLOCK_SHAPES[device()]:
        name = f"r2_block, {kind}, {clips} clips, {queries} x {length} tokens"
        attempt(name, partial(check, clips, queries, length))


def check_pool(kind: str) -> None:
    """Check `frame_pool` and its gradients against autograd in fp64."""
    for shape in _POOL_SHAPES[device()]:
        for gated in (False, True):
            videos, clips, queries, length = shape
            name = (
                f"frame_pool, {kind}, {videos} x {clips} clips, {queries} x {length} tokens"
                f"{', gated' if gated else ''}"
            )
            attempt(name, partial(_check_pool, kind, shape, gated))


def _check_pool(kind: str, shape: tuple[int, int, int, int], gated: bool) -> dict[str, float]:
    from kernels.frame_pool import frame_pool
    from kernels.reference.frame_pool import frame_pool as reference

    videos, clips, queries, length = shape
    sizes, where, dtype = SIZES[device()], device(), DTYPES[kind]
    generator = torch.Generator(device=where).manual_seed(1)

    def normal(*size: int, by: float = 1.0) -> Tensor:
        return (by * torch.randn(size, generator=generator, device=where)).to(dtype)

    d = sizes.width
    inputs = {
        "v": normal(videos, clips, sizes.patches, d),
        "q": normal(videos, queries, length, d),
        "q_key": normal(videos, queries, length, d, by=2 / d**0.5),
        "scale": torch.tensor([0.6], device=where),
    }
    if gated:
        inputs["gate"] = torch.tensor([0.4], device=where)
        inputs["last"] = normal(videos, queries, clips, d)
    masks = {
        "query_mask": torch.rand(videos, queries, length, generator=generator, device=where) > 0.2,
        "clip_mask": torch.rand(videos, clips, generator=generator, device=where) > 0.1,
    }
    masks["query_mask"][..., 0] = True
    masks["clip_mask"][:, 0] = True
    upstream = normal(videos, queries, clips, d)

    def results(function: Callable[..., Tensor], *, exact: bool) -> Iterator[tuple[str, Tensor]]:
        leaves = {
            name: (x.double() if exact else x).detach().clone().requires_grad_()
            for name, x in inputs.items()
        }
        out = function(**leaves, **masks)
        out.backward(upstream.to(out.dtype))  # type: ignore[no-untyped-call]
        yield "out", out
        for name, leaf in leaves.items():
            assert leaf.grad is not None, f"{name} has no gradient"
            yield f"gradient of {name}", leaf.grad

    pairs = zip(results(frame_pool, exact=False), results(reference, exact=True), strict=True)
    errors = [
        relative_error(got, expected, name, limit=_POOL[kind])
        for (name, got), (_, expected) in pairs
    ]
    return {"error": max(errors)}


def run_pool_for_the_sanitizer() -> None:
    """Run `frame_pool` and its backward small, each allocation by itself, for compute-sanitizer."""
    import os

    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"  # read with the first allocation
    attempt("frame_pool", partial(_check_pool, "bf16", (1, 3, 2, 5), True))


def check_small(kind: str) -> None:
    """Check `finalize` and `cast`."""
    for clips in _FINALIZE_CLIPS[device()]:
        attempt(f"finalize, {kind}, {clips} clips", partial(_check_finalize, kind, clips))
    attempt(f"cast, {kind}", partial(_check_cast, kind))


def _check_finalize(kind: str, clips: int) -> dict[str, float]:
    from kernels.finalize import finalize
    from kernels.reference.finalize import finalize as reference

    sizes = SIZES[device()]
    weights = finalize_weights(sizes, DTYPES[kind])
    tokens, ends = stored_tokens(clips)
    expected = reference(tokens.double(), ends.double(), in_double(weights))
    got = finalize(tokens, ends, weights)
    return {"error": relative_error(got, expected, "v", limit=_FINALIZE[kind])}


def stored_tokens(clips: int) -> tuple[Tensor, Tensor]:
    """Return random stored tokens (T, K, P, D + 2) and endpoints (T, 2), fp32."""
    sizes, generator = SIZES[device()], torch.Generator(device=device()).manual_seed(clips)
    shape = (clips, sizes.layers, sizes.patches, sizes.width + 2)
    tokens = torch.randn(shape, generator=generator, device=device())
    tokens[..., -1] = tokens[..., -1].abs() * sizes.vision_width  # M2, a sum of squares
    index = torch.arange(clips + 1, device=device(), dtype=torch.float32) / clips
    return tokens, torch.stack([index[:-1], index[1:]], dim=1)


def _check_cast(kind: str) -> dict[str, Any]:
    from kernels.cast import cast

    count, dtype = 12_345 * 16 if device() == "cuda" else 4_000, DTYPES[kind]
    source = torch.randn(count, device=device())
    target = torch.full((count + 64,), -7.0, device=device(), dtype=dtype)
    cast(source, target[:count])
    # Triton's interpreter rounds to bf16 toward zero: a number may be off by one unit.
    unit = 2**-7 if device() == "cpu" and dtype == torch.bfloat16 else 0
    expected = source.to(dtype)
    assert torch.allclose(target[:count], expected, rtol=unit, atol=0), (
        "other numbers than PyTorch's rounding"
    )
    assert bool((target[count:] == -7).all()), "wrote beyond the end"
    return {}
