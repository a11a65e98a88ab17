"""A folder of entries, each a file or a folder, that together take a bounded number of bytes."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from r2rt.files import remove_orphans, temporary_beside
from r2rt.portable import locked, replace
from r2rt.user_folders import user_cache, user_path

__all__ = ["CacheFolder", "Entry", "cache_dir", "report_unusable"]

_log = logging.getLogger(__name__)

_LOCK = ".lock"


class Entry(NamedTuple):
    """One entry: when it was used last (nanoseconds), where it is, and its size in bytes."""

    used_ns: int
    path: Path
    size: int


def cache_dir() -> Path:
    """Return `$R2RT_CACHE`, or r2rt's folder among the user's caches."""
    if folder := os.environ.get("R2RT_CACHE"):
        return user_path(folder)
    return user_cache()


def report_unusable(error: OSError) -> None:
    """Log that nothing is kept because the cache cannot be written, once for each folder."""
    _warn_once(str(cache_dir()), error.strerror or str(error))


@functools.cache
def _warn_once(folder: str, reason: str) -> None:
    _log.warning(
        "the cache %s cannot be written (%s), so nothing is kept; "
        "set R2RT_CACHE to a folder that can be",
        folder,
        reason,
    )


class CacheFolder:
    """Entries by name; the least recently used make room for new ones.

    Entries appear and disappear whole, whatever other processes do. One process at a time adds
    one, and makes room before it writes, so that the limit holds at every moment.

    Args:
        folder: where the entries are; made when the first one is added.
        max_bytes: how much they may take together.
        suffix: how the names of entries end.
        alone: no other process adds entries. Then the folder, which may have very many, is not
            listed for each one that is added.
    """

    def __init__(
        self, folder: Path, max_bytes: int, suffix: str = "", *, alone: bool = False
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._suffix = suffix
        self._spare = max_bytes // 16 if alone else 0  # made free together, so that it is rare
        self._alone = alone
        self._room = 0  # bytes that are free at least, if nobody else adds entries

    def path(self, name: str) -> Path:
        """Return where the entry of this name is, or would be."""
        return self.folder / (name + self._suffix)

    def touch(self, name: str) -> None:
        """Mark an entry as used now."""
        with contextlib.suppress(OSError):  # it may just have been evicted, or not be ours
            os.utime(self.path(name))

    def put(self, name: str, size: int, write: Callable[[Path], object]) -> bool:
        """Add an entry, unless it is there, and return whether it is.

        Args:
            name: the entry's name.
            size: the most bytes that it can take; an entry that would fill more than half of the
                folder is not added.
            write: makes the entry, a file or a folder, at a path where nothing is yet; what it
                raises passes through, and nothing is left.

        Raises:
            OSError: the folder cannot be written.
        """
        if size > self.max_bytes // 2:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        destination = self.path(name)
        with locked(self.folder / _LOCK):
            if destination.exists():
                return True
            if not self._alone or size > self._room:
                remove_orphans(self.folder)
                left = self._evict(self.max_bytes - size - self._spare)
                self._room = self.max_bytes - left
            temporary = temporary_beside(destination)
            try:
                write(temporary)
                if _size(temporary) > size:
                    return False
                replace(temporary, destination)
                self._room -= size
            finally:
                _remove(temporary)
        return True

    def discard(self, name: str) -> None:
        """Remove an entry, if it is there."""
        _remove(self.path(name))

    def entries(self) -> list[Entry]:
        """Return every entry, the least recently used first."""
        found = []
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if path.name.endswith(self._suffix) and not path.name.startswith("."):
                    with contextlib.suppress(OSError):
                        found.append(Entry(path.stat().st_mtime_ns, path, _size(path)))
        return sorted(found)

    def _evict(self, room: int) -> int:
        """Remove the least recently used entries until the others take `room` bytes at most.

        Returns:
            What they take.
        """
        entries = self.entries()
        total = sum(entry.size for entry in entries)
        for entry in entries:
            if total <= room:
                break
            _remove(entry.path)
            total -= entry.size
        return total


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.iterdir())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
