"""The video encoder in PyTorch: the figures that an engine has to beat."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu_checks.rows import attempt
from benchmarks.gpu_checks.times import replay

__all__ = ["time_encoder"]

# Operations of ViT-B/32 a frame of 224 x 224, a multiplication with its addition being two.
_GFLOP_A_FRAME = 8.8
_BATCHES = (8, 64, 128)


def time_encoder() -> None:
    """Time ViT-B/32 in fp16, eager and compiled, as CUDA graphs."""
    from training.clip import DEFAULT_ARCH, arch_config, random_towers

    towers = random_towers(arch_config(DEFAULT_ARCH), 0).requires_grad_(False).cuda().half()
    layers = 4

    def encode(frames: Tensor) -> Tensor:
        hidden: Tensor = towers.encode_video(frames, layers)
        return hidden

    compiled = torch.compile(encode, dynamic=False)
    with torch.inference_mode():
        for batch in _BATCHES:
            frames = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8, device="cuda")
            for name, way in (("eager", encode), ("torch.compile", compiled)):
                attempt(f"ViT-B/32 fp16, {name}, {batch} frames", partial(_time, way, frames))


def _time(way: Callable[[Tensor], Tensor], frames: Tensor) -> dict[str, float]:
    from triton.testing import do_bench

    way(frames)
    ms = do_bench(replay(lambda: way(frames)), warmup=20, rep=60, return_mode="median")
    batch = len(frames)
    return {
        "graph_ms": round(ms, 3),
        "frames_per_s": round(1e3 * batch / ms),
        "tflops": round(batch * _GFLOP_A_FRAME / ms, 1),
    }
