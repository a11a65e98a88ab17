"""Settings of a training for as much data as there is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from training.config import ModelSettings, RunConfig, TrainOptions
from training.data.annotation import Annotation
from training.model import Padding
from training.recipes import RECIPES

__all__ = ["choose_rate", "choose_settings"]

# Below this median length of a moment, in seconds, clips of 2 s are too coarse.
_SHORT_MOMENT_S = 6.0
_FEWEST_STEPS, _MOST_STEPS = 300, 20_000
# Steps a query: few queries are repeated more often.
_STEPS_A_QUERY = 8
# The widest R² block; on a narrow CLIP it is as narrow.
_WIDTH = 256


def choose_rate(annotations: Sequence[Annotation]) -> Fraction:
    """Return clips a second: 1/2 as QVHighlights has, 1 where moments are short."""
    lengths = [end - start for a in annotations for start, end in a.moments_s or ()]
    short = lengths and statistics.median(lengths) < _SHORT_MOMENT_S
    return Fraction(1) if short else Fraction(1, 2)


def choose_settings(
    *, queries: int, longest_s: float, fps: Fraction, vision_width: int, seed: int
) -> RunConfig:
    """Return settings of a training: QVHighlights' recipe, with steps and batches for the data.

    Args:
        queries: queries to train on.
        longest_s: length of the longest video, in seconds.
        fps: clips a second.
        vision_width: width of CLIP's vision tower.
        seed: of the training.
    """
    batch = next(size for size, most in ((4, 63), (16, 999), (32, math.inf)) if queries <= most)
    epoch = math.ceil(queries / batch)
    steps = min(max(_STEPS_A_QUERY * queries, _FEWEST_STEPS), _MOST_STEPS)
    epochs = max(1, math.ceil(steps / epoch))
    recipe = replace(
        RECIPES["qvhighlights"],
        fps=fps,
        unit_s=None,
        window_s=max(30.0, float(math.ceil(longest_s))),
        batch_size=batch,
        passes=1,
        epochs=epochs,
        # The last third at a tenth of the rate, as the published recipe has it.
        decay_epoch=max(1, 2 * epochs // 3),
        warmup_steps=min(500, epochs * epoch // 10),
    )
    return RunConfig(
        recipe=recipe,
        model=ModelSettings(width=min(_WIDTH, vision_width), padding=Padding.EXACT),
        # Ten validations in all: small splits are answered in seconds, but often.
        options=TrainOptions(
            seed=seed,
            save_minutes=1.0,
            val_epochs=max(1, epochs // 10),
            tensorboard=False,
            # Few samples are read faster than processes start.
            workers=0 if queries < 1000 else 2,
        ),
    )
