from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest

from r2rt.model.registry import PUBLISHED
from training.recipes import RECIPES, recipe_for_sha256


def test_every_published_checkpoint_has_its_recipe() -> None:
    assert RECIPES.keys() == PUBLISHED.keys()
    assert len(RECIPES) == 20
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.name.startswith(recipe.dataset)


def test_a_checkpoint_is_known_by_its_hash_alone() -> None:
    for name, published in PUBLISHED.items():
        assert recipe_for_sha256(published.hash8 + "0" * 56) == name
        assert recipe_for_sha256(published.hash8.upper() + "F" * 56) == name
    assert recipe_for_sha256("0" * 64) is None
    # The digits of a file's name are not a file's hash.
    assert recipe_for_sha256("ed516355") is None


def test_moment_recipes() -> None:
    qvhighlights, charades = RECIPES["qvhighlights"], RECIPES["charades"]
    assert (qvhighlights.fps, qvhighlights.unit_s, qvhighlights.window_s) == (
        Fraction(1, 2),
        2,
        150,
    )
    assert (qvhighlights.batch_size, qvhighlights.passes, qvhighlights.lr) == (128, 4, 5e-4)
    assert qvhighlights.nms is not None
    assert (qvhighlights.nms.kind, qvhighlights.nms.iou_threshold) == ("normal", 0.7)
    assert (charades.fps, charades.unit_s, charades.dropout) == (Fraction(1), 0.1, 0.35)
    assert (charades.loss_weights.sal, charades.loss_weights.video_cal) == (0.01, 0.1)
    assert RECIPES["tacos"].loss_weights.sal == 0.05
    assert RECIPES["ego4d"].dropout == 0.3
    for name in ("charades", "tacos", "ego4d"):
        recipe = RECIPES[name]
        assert recipe.nms is not None
        assert recipe.nms.kind == "linear"
        assert (recipe.lr, recipe.batch_size, recipe.passes) == (2.5e-4, 32, 1)
        assert recipe.has_offsets
        assert recipe.merge_cls_sal


@pytest.mark.parametrize(("dataset", "epochs", "count"), [("tvsum", 500, 10), ("youtube", 200, 6)])
def test_highlight_recipes(dataset: str, epochs: int, count: int) -> None:
    recipes = [r for r in RECIPES.values() if r.dataset == dataset]
    assert len({r.domain for r in recipes}) == len(recipes) == count
    for recipe in recipes:
        assert (recipe.epochs, recipe.decay_epoch, recipe.warmup_steps) == (epochs, None, 50)
        assert (recipe.strides, recipe.batch_size, recipe.nms) == ((1,), 4, None)
        assert not any((recipe.use_tef, recipe.has_offsets, recipe.merge_cls_sal))
        assert recipe.min_video_s == 0


def test_recipes_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPES["tacos"].lr = 1.0  # type: ignore[misc]
