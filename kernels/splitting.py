"""How the work of one step is shared among programs.

Tensor cores take 16 rows at least, so 75 clips are 5 blocks of rows: with a program a block, 5 of
an H200's 132 multiprocessors would each read all weights of a step. Where blocks are few, the
outputs of the projections and the hidden units of the feed-forward are shared among several
programs.
"""

from __future__ import annotations

import torch

__all__ = ["MOST_PARTS", "PARTS_EXPRESSION", "ROWS", "parts_for", "step_parts"]

# Clips a program.
ROWS = 16
# What every part reads for itself outweighs its share of the weights beyond this.
MOST_PARTS = 8
# The same for launches (`r2rt.engines.tensorrt.cubins.extent`).
PARTS_EXPRESSION = f"max 1 min {MOST_PARTS} // MULTIPROCESSORS * N cdiv T {ROWS}"


def step_parts(*, clips: int, queries: int, multiprocessors: int) -> int:
    """Return how many programs share a block of rows: as many as one wave has room for."""
    blocks = queries * -(-clips // ROWS)
    return max(1, min(MOST_PARTS, multiprocessors // blocks))


def parts_for(device: torch.device, *, clips: int, queries: int) -> int:
    """Return `step_parts` for a CUDA device; 1 where kernels are interpreted."""
    if device.type != "cuda":
        return 1
    count = torch.cuda.get_device_properties(device).multi_processor_count
    return step_parts(clips=clips, queries=queries, multiprocessors=count)
