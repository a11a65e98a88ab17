"""What the grounder takes of a video none of whose patches are merged."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2rt.model.contract import PATCH_BIAS

__all__ = ["unmerged"]


def unmerged(v: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return v (T, K, P, D) and the bias of its rows, 0."""
    return {"v": v, PATCH_BIAS: np.zeros(v.shape[:-1], np.float32)}
