"""Settings of a training for as much data as there is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType

from training.config import ModelSettings, RunConfig, TrainOptions, with_overrides
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
    *,
    queries: int,
    longest_s: float,
    fps: Fraction,
    vision_width: int,
    seed: int,
    changes: Mapping[str, object] = MappingProxyType({}),
) -> RunConfig:
    """Return settings of a training: QVHighlights' recipe, with steps and batches for the data.

    What depends on the number of steps follows those that are asked for.

    Args:
        queries: queries to train on.
        longest_s: length of the longest video, in seconds.
        fps: clips a second.
        vision_width: width of CLIP's vision tower.
        seed: of the training.
        changes: settings that are asked for, by name.

    Raises:
        TrainingError: no such setting, or a value that it cannot have.
    """
    batch = next(size for size, most in ((4, 63), (16, 999), (32, math.inf)) if queries <= most)
    recipe = replace(
        RECIPES["qvhighlights"],
        fps=fps,
        unit_s=None,
        window_s=max(30.0, float(math.ceil(longest_s))),
        batch_size=batch,
        passes=1,
    )
    config = RunConfig(
        recipe=recipe,
        model=ModelSettings(width=min(_WIDTH, vision_width), padding=Padding.EXACT),
        options=TrainOptions(
            seed=seed,
            save_minutes=1.0,
            tensorboard=False,
            # Few samples are read faster than processes start.
            workers=0 if queries < 1000 else 2,
        ),
    )
    recipe = with_overrides(config, changes).recipe
    epoch = math.ceil(queries * recipe.passes / recipe.batch_size)
    steps = min(max(_STEPS_A_QUERY * queries, _FEWEST_STEPS), _MOST_STEPS)
    epochs = recipe.epochs if "epochs" in changes else max(1, math.ceil(steps / epoch))
    timing = {
        "epochs": epochs,
        # The last third at a tenth of the rate, as the published recipe has it.
        "decay_epoch": max(1, 2 * epochs // 3),
        "warmup_steps": min(500, epochs * epoch // 10),
        # Ten validations in all: small splits are answered in seconds, but often.
        "val_epochs": max(1, epochs // 10),
    }
    return with_overrides(config, {**timing, **changes})
