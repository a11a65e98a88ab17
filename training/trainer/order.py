"""Which samples make which batch, and what is random about them: functions of seed and place.

No generator's state is carried from step to step. The order of an epoch, what is drawn for the
sample at a place of it, and the dropout of a step are each seeded by (seed, what for, where), so a
run that is resumed in the middle of an epoch, loads with other numbers of worker processes, or
validates in between, goes on bit for bit as one that was never interrupted; and a batch is the same
however many processes share it.
"""

from __future__ import annotations

import contextlib
import enum
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from r2rt.errors import R2rtError
from training.data.sample import Batch, Sample, collate
from training.errors import TrainingError
from training.recipes import Recipe
from training.trainer.schedule import steps_per_epoch

__all__ = [
    "Batches",
    "BatchesOrErrors",
    "Purpose",
    "Samples",
    "own_randomness",
    "seed_everything",
    "usable_samples",
]


class Samples(Protocol):
    """What training reads: a map-style data set of samples.

    One that also has `durations_s`, a sequence of the videos' lengths in seconds, is not read
    through before training where a recipe drops short videos.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...


class Purpose(enum.IntEnum):
    """What a seed is for."""

    ORDER = 0
    SAMPLE = 1
    STEP = 2


def seed_everything(seed: int, purpose: Purpose, place: tuple[int, int]) -> None:
    """Seed the global generators of torch (all devices), numpy and Python for one place."""
    words = _words(seed, purpose, place)
    torch.manual_seed(int(words[0]))
    np.random.seed(int(words[1]) % 2**32)  # noqa: NPY002
    random.seed(int(words[2]))


@contextlib.contextmanager
def own_randomness(seed: int, purpose: Purpose, place: tuple[int, int]) -> Iterator[None]:
    """Seed torch's CPU generator, numpy and Python for the block; restore them after it."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    words = _words(seed, purpose, place)
    torch.default_generator.manual_seed(int(words[0]))
    np.random.seed(int(words[1]) % 2**32)  # noqa: NPY002
    random.seed(int(words[2]))
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        random.setstate(before[2])


def usable_samples(samples: Samples, min_video_s: float) -> list[int]:
    """Return the indices of the samples whose video lasts `min_video_s` seconds or more."""
    if min_video_s <= 0:
        return list(range(len(samples)))
    durations = getattr(samples, "durations_s", None)
    if durations is None:
        durations = [samples[index].duration_s for index in range(len(samples))]
    return [index for index, duration_s in enumerate(durations) if duration_s >= min_video_s]


class Batches(Dataset[Batch]):
    """The batches of a whole run by step; each process has its share of them.

    An epoch holds every sample `passes` times, all shuffled as one; its last batch may be smaller.
    The `world` processes take equal shares in order;
    where a batch does not divide, the last shares are filled up by repeating its last sample, and
    `training.trainer.sharing` leaves the repeats out of the losses.

    Args:
        samples: the data set.
        usable: indices of the samples that are trained on.
        recipe: for batch size and passes.
        seed: of orders and draws.
        rank: this process.
        world: number of processes.
    """

    def __init__(
        self,
        samples: Samples,
        usable: Sequence[int],
        recipe: Recipe,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._samples = samples
        self._usable = np.asarray(usable, dtype=np.int64)
        self._passes = recipe.passes
        self._batch_size = recipe.batch_size
        self._seed = seed
        self._rank = rank
        self._world = world
        self._order: tuple[int, np.ndarray] | None = None
        self.epoch_steps = steps_per_epoch(recipe, len(usable))

    def size(self, step: int) -> int:
        """Return the number of samples in a step's batch, of all processes together."""
        start = step % self.epoch_steps * self._batch_size
        return min(self._batch_size, len(self._usable) * self._passes - start)

    def __getitem__(self, step: int) -> Batch:
        """Load this process's share of a step's batch."""
        epoch, index = divmod(step, self.epoch_steps)
        size = self.size(step)
        share = -(-size // self._world)
        order = self._epoch_order(epoch)
        drawn = []
        for offset in range(self._rank * share, (self._rank + 1) * share):
            place = index * self._batch_size + min(offset, size - 1)
            with own_randomness(self._seed, Purpose.SAMPLE, (epoch, place)):
                drawn.append(_with_one_clip(self._samples[int(order[place])]))
        try:
            # Each has one clip left to draw.
            return collate(drawn, torch.Generator())
        except ValueError as error:
            raise TrainingError(f"step {step + 1}: {error}; correct the data") from error

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            words = _words(self._seed, Purpose.ORDER, (epoch, 0))
            repeated = np.tile(self._usable, self._passes)
            self._order = epoch, np.random.default_rng(words).permutation(repeated)
        return self._order[1]


class BatchesOrErrors(Dataset[Batch | R2rtError]):
    """Batches for worker processes: an error is handed over as it is, not raised.

    What a worker raises reaches the training process as a traceback of many lines.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> Batch | R2rtError:
        """Load a step's share, or say what keeps it from being loaded."""
        try:
            return self._batches[step]
        except R2rtError as error:
            return error


def _words(seed: int, purpose: Purpose, place: tuple[int, int]) -> np.ndarray:
    """Three words to seed generators with, uint64."""
    return np.random.SeedSequence([seed, purpose, *place]).generate_state(3, np.uint64)


def _with_one_clip(sample: Sample) -> Sample:
    """Draw the sample's positive clip here, where its place seeds the draw."""
    clips = sample.relevant_clips
    if not len(clips):
        return sample
    index = int(torch.randint(len(clips), ()))
    return replace(sample, relevant_clips=clips[index : index + 1])
