"""A file's bytes by their place, such as a map of it gives, whatever becomes of the file meanwhile.

Reading a map beyond the end of a file that was truncated ends the process.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import overload

__all__ = ["FileBytes"]

# What is read at once around a place, and where all bytes are looked at.
_NEAR_BYTES, _CHUNK_BYTES = 4 << 10, 1 << 20


class FileBytes:
    """The bytes that a file had when it was opened; few of them are held at a time.

    Places are counted from 0 and are never negative; slices have a stop and no step.

    Args:
        file: opened for reading; a buffer of its own is of no use.

    Raises:
        OSError: here and below, the file cannot be read, or has become shorter.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._start, self._held = 0, b""

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> bytes: ...
    def __getitem__(self, place: int | slice) -> int | bytes:
        if isinstance(place, int):
            at = place - self._start
            if not 0 <= at < len(self._held):
                if place >= self._size:
                    raise IndexError(f"byte {place} of {self._size}")
                self._hold(place, 1)
                at = 0
            return self._held[at]
        first, last = place.start - self._start, place.stop - self._start
        if first >= 0 and last <= len(self._held):
            return self._held[first:last]
        size = min(place.stop, self._size) - place.start
        if size <= 0:
            return b""
        self._hold(place.start, size)
        return self._held[:size]

    def find(self, sought: bytes, start: int, stop: int) -> int:
        """Return where bytes first occur in a part, -1 where they do not."""
        overlap = len(sought) - 1
        for place, chunk in self._chunks(start, stop, overlap):
            if (found := chunk.find(sought)) >= 0:
                return place + found
        return -1

    def is_zero_from(self, start: int) -> bool:
        """Return whether no byte from a place on is set."""
        return not any(chunk.strip(b"\0") for _, chunk in self._chunks(start, self._size, 0))

    def _chunks(self, start: int, stop: int, overlap: int) -> Iterator[tuple[int, bytes]]:
        for place in range(start, stop, _CHUNK_BYTES):
            yield place, self[place : min(place + _CHUNK_BYTES + overlap, stop)]

    def _hold(self, start: int, size: int) -> None:
        size = min(max(size, _NEAR_BYTES), self._size - start)
        self._file.seek(start)
        held = self._file.read(size)
        while len(held) < size:
            more = self._file.read(size - len(held))
            if not more:
                raise OSError("the file has become shorter")
            held += more
        self._start, self._held = start, held
