"""`layer_pool` in plain PyTorch; the formula is in `kernels.layer_pool`."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.reference.frame_pool import frame_pool

__all__ = ["layer_pool"]


def layer_pool(
    v: Tensor, q: Tensor, q_key: Tensor, query_mask: Tensor | None, scales: Tensor
) -> Tensor:
    """Pool the frames of every layer; arguments and result are those of the kernel."""
    mask = None if query_mask is None else query_mask[None]
    layers = [
        frame_pool(v[None, :, k], q[None, :, k], q_key[None, :, k], scales[k], query_mask=mask)[0]
        for k in range(v.shape[1])
    ]
    return torch.stack(layers)
