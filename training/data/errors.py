"""What can be wrong with training data, beside the runtime's own errors."""

from __future__ import annotations

from r2rt.errors import R2rtError
from training.errors import TrainingError

__all__ = ["AnnotationError", "FeatureError"]


class AnnotationError(R2rtError, ValueError):
    """Annotations that cannot be trained on as they are."""

    exit_code = 60


class FeatureError(TrainingError):
    """Features that are missing, damaged, or of another shape than the model's."""
