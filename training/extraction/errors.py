"""What keeps features from being made."""

from __future__ import annotations

from r2rt.errors import R2rtError

__all__ = ["ExtractionError"]


class ExtractionError(R2rtError, RuntimeError):
    """Features of some videos or queries could not be made, or not by this model in this folder."""

    exit_code = 63
