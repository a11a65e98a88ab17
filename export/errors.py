"""What export raises, beside the runtime's own errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2rt.errors import R2rtError

if TYPE_CHECKING:
    from r2rt.model.manifest import Check

__all__ = ["ExportError", "VerificationError"]


class ExportError(R2rtError, ValueError):
    """A checkpoint and a CLIP that do not fit each other, or cannot become a bundle."""

    exit_code = 50


class VerificationError(R2rtError, RuntimeError):
    """An exported graph that computes something else than PyTorch; no bundle was written."""

    exit_code = 51

    def __init__(self, message: str, checks: tuple[Check, ...] = ()) -> None:
        super().__init__(message)
        self.checks = checks
