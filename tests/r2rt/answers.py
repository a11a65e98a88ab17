"""Predictions made by hand, for tests that run no model."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from r2rt.grounding.prediction import Moment, Prediction, Timings

__all__ = ["moments", "prediction"]


def prediction(saliency: Sequence[float] = (0.5,) * 10, **fields: Any) -> Prediction:
    """Return an answer about a video of a clip every 2 s, with no moments unless given."""
    values: dict[str, Any] = {
        "query": "a dog",
        "moments": (),
        "saliency": np.array(saliency, np.float32),
        "clip_starts_s": np.arange(len(saliency)) * 2.0,
        "boundaries": np.empty((0, 3)),
        "query_truncated": False,
        "video": "dog.mp4",
        "duration_s": len(saliency) * 2.0,
        "fps": Fraction(1, 2),
        "sampling": "exact",
        "model": "fake",
        "timings": Timings(encode_s=0, text_s=0, ground_s=0),
    }
    return Prediction(**values | fields)


def moments(*rows: tuple[float, float, float]) -> tuple[Moment, ...]:
    """Return moments of these starts, ends and scores."""
    return tuple(Moment(start_s=start, end_s=end, score=score) for start, end, score in rows)
