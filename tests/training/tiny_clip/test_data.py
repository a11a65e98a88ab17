from __future__ import annotations

import numpy as np
import pytest
import torch

from training.tiny_clip.data import IGNORED, TRAIN_STYLES, Batch, make_batch, settings_at
from training.tiny_clip.rows import END
from training.world.colours import COLOURS
from training.world.concepts import CONCEPTS
from training.world.sprites import Sprites


def batch_of(sprites: Sprites, seed: int, progress: float, size: int = 24) -> Batch:
    return make_batch(np.random.default_rng(seed), sprites, settings_at(progress), size)


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.5, 0.7, 1.0])
def test_a_batch_says_what_its_frames_show(toy_sprites: Sprites, progress: float) -> None:
    batch = batch_of(toy_sprites, 5, progress)
    side = settings_at(progress).size
    cells = (side // 8) ** 2
    assert batch.frames.shape == (24, side, side, 3)
    assert batch.patches.shape == batch.colours.shape == (24, cells)
    torch.testing.assert_close(batch.shares.sum(dim=1), torch.ones(24))
    # A frame's patches show what the frame shows.
    for shares, patches in zip(batch.shares, batch.patches, strict=True):
        shown = set(patches.tolist()) - {IGNORED, len(CONCEPTS)}
        assert shown <= set(shares.nonzero()[:, 0].tolist())
    assert set(batch.colours.flatten().tolist()) <= {IGNORED, *range(len(COLOURS))}
    # Every frame's own caption is true of it; of those behind, altered, most are false.
    assert batch.truth[torch.arange(24), torch.arange(24)].all()
    altered = batch.truth[torch.arange(12), 24 + torch.arange(12)]
    assert altered.float().mean() < 0.3
    assert (batch.ids == END).sum(dim=1).eq(1).all()


def test_batches_repeat_by_seed(toy_sprites: Sprites) -> None:
    first, again, other = (batch_of(toy_sprites, seed, 0.7) for seed in (1, 1, 2))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first.frames, other.frames)


def test_a_caption_that_names_one_thing_is_true_where_that_is(toy_sprites: Sprites) -> None:
    batch = batch_of(toy_sprites, 3, 0.7, 64)
    for caption, concept in enumerate(batch.named.tolist()):
        if concept != IGNORED:
            shown = batch.shares[:, concept] > 0
            assert (batch.truth[:, caption] <= shown).all()  # a colour may still be wrong


def test_no_held_out_style_is_trained_on() -> None:
    assert not {"twemoji", "openmoji"} & set(TRAIN_STYLES)
    assert len(TRAIN_STYLES) == 8
