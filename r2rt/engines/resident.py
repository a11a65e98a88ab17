"""Arrays that stay on the GPU between two graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["DeviceArray"]


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceArray:
    """A contiguous array in device memory, which lives as long as something refers to it.

    Attributes:
        address: where it begins on the device.
        shape: its size in each dimension.
        dtype: of its numbers.
        owner: what keeps the memory; freed when the last array over it is gone.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> DeviceArray:
        """Return a run of the first dimension, which shares this memory."""
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError(f"rows of a device array are taken one after another, not by {step}")
        row_bytes = self.nbytes // max(len(self), 1)
        return DeviceArray(
            address=self.address + start * row_bytes,
            shape=(max(stop - start, 0), *self.shape[1:]),
            dtype=self.dtype,
            owner=self.owner,
        )

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
