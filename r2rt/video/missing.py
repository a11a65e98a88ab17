"""Sources that do not exist."""

from __future__ import annotations

import os
from pathlib import Path

from r2rt.errors import SourceNotFoundError

__all__ = ["not_found", "require_source"]


def require_source(source: str) -> None:
    """Check that there is something at a path, before what takes longer.

    A name that the system refuses passes: opening it raises the error that says why.

    Raises:
        SourceNotFoundError: there is nothing.
    """
    try:
        exists = Path(source).exists()
    except (OSError, ValueError):
        return
    if not exists:
        raise not_found(source)


def not_found(source: str | os.PathLike[str]) -> SourceNotFoundError:
    """Return the error for a path at which there is nothing; an address is named as one."""
    name = os.fspath(source)
    if "://" in name:
        return SourceNotFoundError(
            f"{name}: an address, not a file; download the video first, add it to a library with "
            "`r2rt index`, or follow a live stream with `r2rt watch`"
        )
    return SourceNotFoundError(
        f"{name}: no such file or folder; expected a video or a folder of images"
    )
