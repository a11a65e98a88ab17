"""Sources that do not exist."""

from __future__ import annotations

import os
from pathlib import Path

from r2rt.errors import SourceNotFoundError
from r2rt.video.remote import RemoteVideo, is_remote

__all__ = ["not_found", "require_source"]


def require_source(source: str) -> None:
    """Check that there is something at a path or an address, before what takes longer.

    A name that the system refuses passes: opening it raises the error that says why.

    Raises:
        MissingExtraError: what reads such an address is not installed.
        SourceNotFoundError: there is nothing, or its server does not give it.
    """
    if is_remote(source):
        video = RemoteVideo(source)
        try:
            video.stat()
        except OSError as error:
            raise SourceNotFoundError(f"{video}: {error}") from error
        return
    try:
        exists = Path(source).exists()
    except (OSError, ValueError):
        return
    if not exists:
        raise not_found(source)


def not_found(source: str | os.PathLike[str]) -> SourceNotFoundError:
    """Return the error for a path at which there is nothing."""
    return SourceNotFoundError(
        f"{os.fspath(source)}: no such file or folder; expected a video or a folder of images"
    )
