"""Which number formats this machine computes fast in."""

from __future__ import annotations

import torch

__all__ = ["bfloat16_is_fast"]


def bfloat16_is_fast() -> bool:
    """Return whether this processor multiplies bfloat16 matrices faster than fp32 ones.

    Without AVX-512 PyTorch emulates them: a step of the tiny CLIP took ten times as long.
    """
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
