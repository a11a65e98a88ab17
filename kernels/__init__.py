"""Triton kernels of the R² block (R²-Tuning, arXiv 2404.00801) and their PyTorch references.

`kernels/frame_pool.py` holds a kernel, its layout and its tiling, `kernels/reference/frame_pool.py`
the same numbers in plain PyTorch, `tests/kernels/` compares the two, and `benchmarks/gpu_checks/`
does so and times them on a GPU. `kernels.dispatch` says which of the two runs, and why.

Used from a checkout and never installed. PyPI holds another package called `kernels`;
`R2RT_KERNELS` identifies this one.
"""

from __future__ import annotations

from typing import Final

__all__ = ["R2RT_KERNELS"]

R2RT_KERNELS: Final = True
