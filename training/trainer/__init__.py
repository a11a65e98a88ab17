"""Training of the R² block: `fit`, and what it keeps of a run."""

from __future__ import annotations

from training.trainer.fit import Validation, fit
from training.trainer.order import Samples
from training.trainer.state import Progress, read_progress

__all__ = ["Progress", "Samples", "Validation", "fit", "read_progress"]
