"""Arrays that grow, and that lie in a file without a name where they grow large.

Rounding tokens to half the bytes moves boundaries by half a millisecond, a hundred times as far as
anything else that the runtime does. So they are kept as they are, and the tokens of hours of video
on disk: the system keeps in memory what it has room for.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from r2rt.cache.folder import cache_dir
from r2rt.errors import MemoryLimitError
from r2rt.memory import max_memory

__all__ = ["IN_MEMORY_BYTES", "GrowingArray", "forget", "read_mapped"]

Floats = NDArray[np.float32]

# About 20 minutes of tokens of a ViT-B/32 at a clip every 2 s.
IN_MEMORY_BYTES = 128 << 20

_log = logging.getLogger(__name__)


class GrowingArray:
    """Float32 rows: in memory up to `IN_MEMORY_BYTES`, beyond in a file that goes with the array.

    Args:
        row_shape: shape of one row.
        rows: how many to make room for.
        max_bytes: the most that all rows may take; `r2rt.memory.max_memory()` if None.

    Raises:
        MemoryLimitError: the rows would take more than that; `reserve` raises it too.
    """

    def __init__(
        self, row_shape: Sequence[int], rows: int, *, max_bytes: int | None = None
    ) -> None:
        self._max_bytes = max_memory() if max_bytes is None else max_bytes
        self._row_shape = tuple(row_shape)
        self._file: IO[bytes] | None = None
        self.rows = self._allocate(max(rows, 1))

    @property
    def memory_mapped(self) -> bool:
        """Whether the rows lie in a file."""
        return self._file is not None

    def reserve(self, rows: int, *, used: int) -> None:
        """Make room for `rows`, keeping the first `used`; `rows` is then another array."""
        if rows <= len(self.rows):
            return
        before, file = self.rows, self._file
        # More than is needed now, but not beyond the limit.
        most = self._max_bytes // (4 * max(math.prod(self._row_shape), 1))
        self.rows = self._allocate(max(rows, min(len(before) * 3 // 2, most)))
        if self._file is None or self._file is not file:
            self.rows[:used] = before[:used]

    def _allocate(self, rows: int) -> Floats:
        shape = (rows, *self._row_shape)
        size = 4 * math.prod(shape)
        if size > self._max_bytes:
            raise MemoryLimitError(
                f"{rows} clips take {size / 1e6:.0f} MB, at most {self._max_bytes / 1e6:.0f} MB "
                "are permitted; if the video is really so long, read it in parts with --start and "
                "--end, or raise --max-memory"
            )
        if size > IN_MEMORY_BYTES and hasattr(os, "posix_fallocate"):
            try:
                return self._map(shape, size)
            except OSError as error:
                _log.info("no room for %d MB on disk (%s): kept in memory", size >> 20, error)
        self._file = None
        # np.empty of this size takes no memory before it is written.
        return np.empty(shape, np.float32)

    def _map(self, shape: tuple[int, ...], size: int) -> Floats:
        file = self._file
        if file is None:
            folder = cache_dir()
            folder.mkdir(parents=True, exist_ok=True)
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  it lives as long as this
            weakref.finalize(self, file.close)
        # All of it now: a full disk would end the process when the page is written.
        os.posix_fallocate(file.fileno(), 0, size)
        rows = np.ndarray(shape, np.float32, buffer=mmap.mmap(file.fileno(), size))
        self._file = file
        return rows


def read_mapped(
    path: Path, shape: Sequence[int], offset: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return an array that lies in a file from byte `offset` on, read when it is used."""
    rows: NDArray[Any] = np.memmap(path, dtype, "r", offset, tuple(shape))
    return rows


def forget(array: NDArray[Any]) -> None:
    """Let go of the memory of an array that lies in a file; it is read again when it is used."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
