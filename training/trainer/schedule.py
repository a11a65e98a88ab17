"""The learning rate of every step: linear warm-up, then a tenth after some epochs."""

from __future__ import annotations

import math

from training.recipes import Recipe

__all__ = ["learning_rate", "steps_per_epoch"]

_DECAY = 0.1


def steps_per_epoch(recipe: Recipe, samples: int) -> int:
    """Return the steps of an epoch: `passes` over the samples; the last batch may be smaller."""
    return math.ceil(samples * recipe.passes / recipe.batch_size)


def learning_rate(recipe: Recipe, step: int, epoch_steps: int) -> float:
    """Return the learning rate of a step, both counted from 0.

    It is `lr`, a tenth of it from epoch `decay_epoch` on, times a factor that grows linearly from
    `warmup_ratio` at step 0 to 1 at step `warmup_steps`.
    """
    decayed = recipe.decay_epoch is not None and step // epoch_steps >= recipe.decay_epoch
    rate = recipe.lr * (_DECAY if decayed else 1.0)
    if step >= recipe.warmup_steps:
        return rate
    missing = 1 - step / recipe.warmup_steps
    return rate * (1 - missing * (1 - recipe.warmup_ratio))
