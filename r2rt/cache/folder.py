"""Where caches are, and how something is put there by several processes at once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["cache_dir", "put_folder"]


def cache_dir() -> Path:
    """Return `$R2RT_CACHE`, or r2rt's folder among the user's caches."""
    if folder := os.environ.get("R2RT_CACHE"):
        return Path(folder)
    import platformdirs

    return Path(platformdirs.user_cache_dir("r2rt", appauthor=False))


def put_folder(destination: Path, fill: Callable[[Path], None]) -> None:
    """Fill a new folder and put it in place at once; what another process put there stays.

    Raises:
        OSError: there is no room or no permission; nothing is left behind.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=destination.parent))
    try:
        fill(temporary)
        try:
            temporary.rename(destination)
        except OSError:
            if not destination.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
