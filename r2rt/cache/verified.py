"""Remembers which bundles were compared with their hashes, so that it is done once a change.

A bundle counts as verified while every file's size, dates and inode are those that were seen when
its hashes were right. This is about damage, not malice: whoever writes here may write there too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from r2rt.cache.folder import cache_dir, report_unusable

__all__ = ["is_verified", "remember_verified"]

# Another number whenever more is checked: what was verified before is then verified again.
_CHECKS = 2


def is_verified(folder: Path, names: Iterable[str]) -> bool:
    """Return whether these files of a folder are the very ones that were remembered."""
    with contextlib.suppress(OSError, UnicodeDecodeError):  # then they are compared again
        stamp = _stamp(folder, names)
        return _memo(folder).read_text() == stamp
    return False


def remember_verified(folder: Path, names: Iterable[str]) -> None:
    """Remember the files as they are now."""
    try:
        memo = _memo(folder)
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(_stamp(folder, names))
    except OSError as error:
        report_unusable(error)


def _memo(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:40]  # need not be text
    return cache_dir() / "verified" / name


def _stamp(folder: Path, names: Iterable[str]) -> str:
    rows: list[object] = [_CHECKS]
    for name in sorted(names):
        status = (folder / name).stat()
        rows.append((name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return hashlib.sha256(msgspec.json.encode(rows)).hexdigest()
