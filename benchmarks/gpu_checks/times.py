"""Times of the kernels, beside eager PyTorch and `torch.compile`; each alone on the GPU.

Medians of Triton's `do_bench`: as launched from Python, and replayed as a CUDA graph. `bound_us` is
the least time by the ceilings that `environment` measures (`benchmarks.kernel_counts`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_checks.block_in_torch import block
from benchmarks.gpu_checks.rows import attempt, put
from benchmarks.gpu_checks.samples import (
    DTYPES,
    SIZES,
    block_inputs,
    block_weights,
    finalize_weights,
    relative_error,
)

__all__ = ["compile_for_times", "replay", "time_kernels", "time_pool_in_training"]

_TOKENS = 16
# v in fp32 and fp16, stored tokens, and what eager PyTorch makes of them.
_BYTES_A_CLIP = 2 << 20


def compile_for_times(kind: str, clips: str) -> None:
    """Compile what `time_kernels` needs into the caches that processes share."""
    with torch.inference_mode():
        for name, work in _cases(kind, int(clips)).items():
            attempt(f"{name}, {kind}, {clips} clips", partial(_discard, work))


def time_kernels(kind: str, clips: str) -> None:
    """Time every kernel, and the block beside PyTorch's."""
    from benchmarks.gpu_checks.environment import ceilings

    count = int(clips)
    if torch.cuda.get_device_properties(0).total_memory < count * _BYTES_A_CLIP:
        put("times", "skipped", reason=f"not enough memory for {clips} clips")
        return
    measured = ceilings()
    with torch.inference_mode():
        cases = _cases(kind, count)
        attempt(f"the block and PyTorch's agree, {kind}, {clips} clips", partial(_agree, cases))
        bounds = _bounds(count, measured)
        for name, work in cases.items():
            row = f"{name}, {kind}, {clips} clips"
            attempt(row, partial(_time, work, bounds.get(name)))


def time_pool_in_training(kind: str) -> None:
    """Time `frame_pool` forward and backward and its memory at a batch of 128 videos."""
    from kernels.frame_pool import frame_pool
    from kernels.reference.frame_pool import frame_pool as in_torch

    sizes, dtype = SIZES["cuda"], DTYPES[kind]
    v = torch.randn(128, 75, sizes.patches, sizes.width, device="cuda").to(dtype)
    q = torch.randn(128, 1, 12, sizes.width, device="cuda").to(dtype)
    scale = torch.tensor([0.5], device="cuda", dtype=dtype)
    ways: dict[str, Callable[..., Tensor]] = {
        "frame_pool": frame_pool,
        "eager PyTorch": in_torch,
        "torch.compile": torch.compile(in_torch),
    }
    for name, way in ways.items():
        row = f"{name} forward and backward, {kind}, 128 x 75 clips"
        attempt(row, partial(_time_training, way, v, q, scale))


def _cases(kind: str, clips: int) -> dict[str, Callable[[], Any]]:
    from benchmarks.gpu_checks.kernels import stored_tokens
    from kernels.cast import cast
    from kernels.finalize import finalize
    from kernels.frame_step import frame_step
    from kernels.layer_pool import layer_pool
    from kernels.query_maps import query_maps
    from kernels.r2_block import r2_block
    from kernels.reference.frame_step import sine_positions
    from kernels.splitting import MOST_PARTS, parts_for
    from kernels.time_attention import time_attention
    from kernels.time_step import StepSums, settle, time_step

    sizes, dtype = SIZES["cuda"], DTYPES[kind]
    weights = block_weights(sizes, dtype)
    x = block_inputs(sizes, clips=clips, queries=1, length=_TOKENS, dtype=dtype)
    wide = x.v.float()
    tokens, ends = stored_tokens(clips)
    mapped = finalize_weights(sizes, dtype)
    pooled = layer_pool(x.v, x.q, x.q_key, x.query_mask, weights.scales)

    maps = query_maps(x.q, x.query_mask, weights.query, heads=sizes.heads)
    parts = parts_for(x.v.device, clips=clips, queries=1)

    def step(before: StepSums | None) -> tuple[Tensor, Tensor]:
        return frame_step(pooled[0], maps, 0, before, weights.frame, gate=0.5, parts=parts)

    mixed, qkv = step(None)
    attended = time_attention(qkv, heads=sizes.heads)
    sums = time_step(mixed, attended, weights.time, parts=parts)
    pe = sine_positions(clips, sizes.width).to("cuda", dtype)
    arguments = (x.v, x.q, x.q_key, x.query_mask, weights)
    compiled = torch.compile(block, dynamic=False)
    return {
        "cast of v": lambda: cast(wide, x.v.view(-1)),
        "finalize": lambda: finalize(tokens, ends, mapped),
        "layer_pool": lambda: layer_pool(x.v, x.q, x.q_key, x.query_mask, weights.scales),
        "query_maps": lambda: query_maps(x.q, x.query_mask, weights.query, heads=sizes.heads),
        "frame_step": lambda: step(sums),
        "time_attention": lambda: time_attention(qkv, heads=sizes.heads),
        "time_step": lambda: time_step(mixed, attended, weights.time, parts=parts),
        "settle": lambda: settle(sums),
        "r2_block": lambda: r2_block(*arguments),
        # What the choice of parts has to beat.
        **{
            f"r2_block in {n} parts": partial(r2_block, *arguments, parts=n)
            for n in (1, 2, 4, MOST_PARTS)
            if n != parts
        },
        "eager PyTorch": lambda: block(*arguments, pe),
        "torch.compile": lambda: compiled(*arguments, pe),
    }


def _bounds(clips: int, measured: dict[str, float]) -> dict[str, float]:
    """Return the least microseconds of each case, by the measured ceilings."""
    from benchmarks import kernel_counts
    from benchmarks.eager_counts import Shape

    shape = Shape(clips=clips, length=_TOKENS)
    rates = {
        "flops_per_s": 1e12 * measured["product_tflops"],
        "bytes_per_s": 1e12 * measured["copy_tb_s"],
    }
    launches = {
        "finalize": [kernel_counts.finalize(shape)],
        "query_maps": [kernel_counts.query_maps(shape)],
        "layer_pool": [kernel_counts.layer_pool(shape)],
        "frame_step": [kernel_counts.frame_step(shape)],
        "time_attention": [kernel_counts.time_attention(shape)],
        "time_step": [kernel_counts.time_step(shape)],
        "settle": [kernel_counts.settle(shape)],
        "r2_block": kernel_counts.recurrence(shape),
    }
    return {
        name: 1e6 * sum(launch.bound_s(**rates) for launch in found)
        for name, found in launches.items()
    }


def _agree(cases: dict[str, Callable[[], Any]]) -> dict[str, float]:
    expected = cases["eager PyTorch"]()
    return {
        name: relative_error(cases[name](), expected, name, limit=2e-2)
        for name in ("r2_block", "torch.compile")
    }


def _discard(work: Callable[[], object]) -> None:
    work()
    torch.cuda.synchronize()


def _time(work: Callable[[], object], bound_us: float | None) -> dict[str, float | None]:
    from triton.testing import do_bench

    direct_ms = do_bench(work, warmup=10, rep=40, return_mode="median")
    graph_ms = do_bench(replay(work), warmup=10, rep=40, return_mode="median")
    least = min(direct_ms, graph_ms)
    return {
        "us": round(1e3 * direct_ms, 1),
        "graph_us": round(1e3 * graph_ms, 1),
        "bound_us": bound_us and round(bound_us, 2),
        "share_of_bound": bound_us and round(bound_us / (1e3 * least), 3),
    }


def replay(work: Callable[[], object]) -> Callable[[], None]:
    """Capture a call, and what it allocates, as a CUDA graph."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _time_training(
    way: Callable[..., Tensor], v: Tensor, q: Tensor, scale: Tensor
) -> dict[str, float]:
    from triton.testing import do_bench

    def step() -> None:
        leaves = [x.detach().requires_grad_() for x in (v, q, q, scale)]
        way(*leaves).sum().backward()  # type: ignore[no-untyped-call]

    step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    ms = do_bench(step, warmup=10, rep=60, return_mode="median")
    return {"us": round(1e3 * ms, 1), "peak_mib": round(peak / 2**20, 1)}
