"""Permissions that hold for root too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["permitting"]

_NOBODY = 65534


@contextlib.contextmanager
def permitting(path: Path, mode: int) -> Iterator[None]:
    """Give a file or folder other permissions for a while; root becomes somebody else meanwhile.

    Args:
        path: what lies in a temporary folder of pytest; root opens the closed ones above it.
        mode: the permissions, the same ones for its owner and for others.
    """
    is_root = os.geteuid() == 0
    above = [x for x in path.parents if is_root and x.stat().st_mode & 0o777 == 0o700]
    before = {x: x.stat().st_mode & 0o7777 for x in (path, *above)}
    for folder in above:
        folder.chmod(0o755)
    path.chmod(mode)
    if is_root:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for changed, its_mode in before.items():
            changed.chmod(its_mode)
