from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.trainer.material import RandomSamples, small_recipe
from training.data.sample import Batch, Sample
from training.errors import TrainingError
from training.recipes import RECIPES
from training.trainer.order import Batches, Purpose, own_randomness, usable_samples
from training.trainer.schedule import learning_rate, steps_per_epoch


def qids(batch: Batch) -> list[int | str]:
    return list(batch.qids)


@given(
    count=st.integers(1, 13),
    batch_size=st.integers(1, 5),
    passes=st.integers(1, 3),
    world=st.integers(1, 4),
)
@settings(max_examples=25)
def test_every_epoch_has_every_sample_and_shares_make_the_batch(
    count: int, batch_size: int, passes: int, world: int
) -> None:
    samples = RandomSamples(count + 1)
    # One sample is left out.
    usable = list(range(count))
    recipe = small_recipe(batch_size=batch_size, passes=passes)
    shares = [
        Batches(samples, usable, recipe, seed=1, rank=rank, world=world) for rank in range(world)
    ]
    alone = Batches(samples, usable, recipe, seed=1)
    seen: list[int | str] = []
    for step in range(alone.epoch_steps):
        whole = alone[step]
        assert len(whole.qids) == alone.size(step)
        parts = [share[step] for share in shares]
        assert len({len(part.qids) for part in parts}) == 1
        together = [qid for part in parts for qid in part.qids]
        assert together[: len(whole.qids)] == qids(whole)
        # What fills shares up repeats the last sample.
        assert set(together[len(whole.qids) :]) <= {whole.qids[-1]}
        clips = torch.cat([part.targets.pos_clip for part in parts])[: len(whole.qids)]
        assert torch.equal(clips, whole.targets.pos_clip)
        seen += qids(whole)
    assert Counter(seen) == Counter(passes * usable)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    def order(seed: int, epoch: int) -> list[int | str]:
        recipe = small_recipe(batch_size=10, passes=1)
        return qids(Batches(RandomSamples(), range(10), recipe, seed=seed)[epoch])

    orders = [tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert order(0, 1) == list(orders[1])


def test_positive_clips_are_drawn_anew_each_epoch() -> None:
    batches = Batches(RandomSamples(1), [0], small_recipe(batch_size=1, passes=1), seed=0)
    drawn = {int(batches[step].targets.pos_clip) for step in range(30)}
    assert drawn == {3, 4, 5}


def test_loading_leaves_the_global_generators_alone() -> None:
    batches = Batches(RandomSamples(drawing=True), range(10), small_recipe(), seed=0)

    def draw() -> tuple[float, float, float]:
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        random.seed(1)
        loaded.append(batches[3])
        return float(torch.rand(())), float(np.random.random()), random.random()  # noqa: NPY002

    loaded: list[Batch] = []
    first = draw()
    torch.rand(5)
    assert torch.equal(batches[3].video, loaded[0].video)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    assert first == (float(torch.rand(())), float(np.random.random()), random.random())  # noqa: NPY002


def test_purposes_and_places_have_seeds_of_their_own() -> None:
    drawn = set()
    for purpose in Purpose:
        for place in ((0, 0), (0, 1), (1, 0)):
            with own_randomness(7, purpose, place):
                drawn.add((float(torch.rand(())), random.random()))
    assert len(drawn) == len(Purpose) * 3


class _WithDurations(RandomSamples):
    durations_s = (4.9, 5.0, 60.0)

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError("lengths are reported, nothing need be read")


def test_short_videos_are_found_without_reading_where_lengths_are_reported() -> None:
    assert usable_samples(_WithDurations(3), 5.0) == [1, 2]
    assert usable_samples(_WithDurations(3), 0.0) == [0, 1, 2]
    # Otherwise each sample is read: they last 18, 20, 22, 24, 26 s.
    assert usable_samples(RandomSamples(5), 22.0) == [2, 3, 4]


def test_a_sample_without_a_clip_to_learn_from_is_reported() -> None:
    class Unlabelled(RandomSamples):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return replace(sample, relevant_clips=sample.relevant_clips[:0])

    with pytest.raises(ValueError, match="no relevant clip to learn from"):
        Batches(Unlabelled(), range(10), small_recipe(), seed=0)[0]


@pytest.mark.parametrize("name", RECIPES)
def test_the_learning_rate_of_every_recipe(name: str) -> None:
    recipe = RECIPES[name]
    epoch_steps = 200
    warmup = recipe.warmup_steps
    assert learning_rate(recipe, 0, epoch_steps) == pytest.approx(recipe.lr * 1e-3)
    middle = recipe.lr * (1 + 1e-3) / 2
    assert learning_rate(recipe, warmup // 2, epoch_steps) == pytest.approx(middle)
    assert learning_rate(recipe, warmup, epoch_steps) == recipe.lr
    last = learning_rate(recipe, recipe.epochs * epoch_steps - 1, epoch_steps)
    if recipe.decay_epoch is None:
        assert last == recipe.lr
        return
    before = recipe.decay_epoch * epoch_steps - 1
    assert learning_rate(recipe, before, epoch_steps) == recipe.lr
    assert learning_rate(recipe, before + 1, epoch_steps) == pytest.approx(recipe.lr / 10)
    assert last == pytest.approx(recipe.lr / 10)


def test_an_epoch_of_qvhighlights_is_four_passes() -> None:
    # 7,218 queries to train on.
    assert steps_per_epoch(RECIPES["qvhighlights"], 7218) == 226
    assert steps_per_epoch(RECIPES["tvsum_bk"], 4) == 1


def test_features_of_different_widths_are_named() -> None:
    class Mixed(RandomSamples):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return replace(sample, video=sample.video[..., :8]) if index else sample

    batches = Batches(Mixed(2), [0, 1], small_recipe(batch_size=2, passes=1), seed=0)
    with pytest.raises(TrainingError, match=r"step 1: videos of a batch have different sizes"):
        batches[0]
