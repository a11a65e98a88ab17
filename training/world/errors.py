"""What can go wrong while the emoji world is built."""

from __future__ import annotations

from r2rt.errors import R2rtError

__all__ = ["ArtError"]


class ArtError(R2rtError):
    """Art that cannot be fetched, is not the pinned one, or lacks an image."""

    exit_code = 64
