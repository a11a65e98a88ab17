"""The error of evaluation."""

from __future__ import annotations

from r2rt.errors import R2rtError

__all__ = ["EvaluationInputError"]


class EvaluationInputError(R2rtError, ValueError):
    """Annotations or predictions that cannot be evaluated; the message names file and line."""

    exit_code = 61
