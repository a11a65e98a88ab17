"""The kernels of this checkout, and not another package of that name."""

from __future__ import annotations

import kernels

if not getattr(kernels, "R2RT_KERNELS", False):
    raise ImportError(
        f"`import kernels` found {kernels.__file__}, which is another package; expected the folder "
        "kernels/ of this checkout: put the checkout first on PYTHONPATH, or uninstall the other"
    )

from kernels.dispatch import Backend, choose

__all__ = ["Backend", "choose"]
