"""How a grid of programs fills a GPU: multiprocessors, and the waves that a launch takes.

A multiprocessor holds a fixed number of a kernel's blocks at once. A grid of more blocks than the
GPU holds runs in waves, and a last wave of one block takes as long as a full one.
"""

from __future__ import annotations

import functools

import torch

__all__ = ["MULTIPROCESSORS", "multiprocessors_of", "share_of_gpu", "waves"]

# Enabled multiprocessors (SMs) as the makers' architecture papers give them.
MULTIPROCESSORS = {"L4": 58, "A100": 108, "H100": 132, "H200": 132, "B200": 148}
# Without a GPU, where kernels run in the interpreter, grids are those of an H100.
_WITHOUT_GPU = MULTIPROCESSORS["H100"]


def waves(programs: int, multiprocessors: int, *, blocks: int = 1) -> int:
    """Return in how many waves a grid of `programs` runs.

    Args:
        programs: blocks of the grid.
        multiprocessors: of the GPU.
        blocks: of the kernel that a multiprocessor holds at once.
    """
    return -(-programs // (multiprocessors * blocks))


def share_of_gpu(programs: int, multiprocessors: int, *, blocks: int = 1) -> float:
    """Return which share of the places for blocks is filled, over all waves."""
    places = waves(programs, multiprocessors, blocks=blocks) * multiprocessors * blocks
    return programs / places


def multiprocessors_of(device: torch.device) -> int:
    """Return a CUDA device's number of multiprocessors; an H100's for any other device."""
    if device.type != "cuda":
        return _WITHOUT_GPU
    return _multiprocessors(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _multiprocessors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)
