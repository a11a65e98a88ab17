"""The ways in which training ends before its time."""

from __future__ import annotations

from pathlib import Path

from r2rt.errors import R2rtError

__all__ = ["TrainingError", "TrainingInterruptedError", "check_no_run"]


class TrainingError(R2rtError, ValueError):
    """Training cannot start or go on: a setting, the data, the run's folder or the machine."""

    exit_code = 62


class TrainingInterruptedError(R2rtError):
    """A signal ended training; everything up to then is saved."""

    exit_code = 130


def check_no_run(checkpoint: Path) -> None:
    """Refuse to begin where a training left its checkpoint.

    Raises:
        TrainingError: it is there.
    """
    if checkpoint.exists():
        raise TrainingError(
            f"{checkpoint.parent}: a run is in it; go on with --resume, or choose another folder"
        )
