"""The ways in which training ends before its time."""

from __future__ import annotations

from r2rt.errors import R2rtError

__all__ = ["TrainingError", "TrainingInterruptedError"]


class TrainingError(R2rtError, ValueError):
    """Training cannot start or go on: a setting, the data, the run's folder or the machine."""

    exit_code = 62


class TrainingInterruptedError(R2rtError):
    """A signal ended training; everything up to then is saved."""

    exit_code = 130
