from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import pytest

from r2rt.model.manifest import Nms
from training.config import (
    RunConfig,
    find_recipe,
    parse_overrides,
    read_settings,
    validated,
    with_overrides,
    write_config,
)
from training.errors import TrainingError
from training.model import Padding
from training.recipes import RECIPES


def config_for(name: str, overrides: Mapping[str, object] | None = None) -> RunConfig:
    return with_overrides(RunConfig(recipe=find_recipe(name)), overrides or {})


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_valid_configuration(tmp_path: Path, name: str) -> None:
    config = config_for(name)
    assert config.recipe == RECIPES[name]
    assert validated(config) == config
    # What a run keeps makes the same run again.
    kept = tmp_path / "config.json"
    kept.write_text(write_config(config))
    recipe, settings = read_settings(kept)
    assert recipe == name
    assert config_for(name, settings) == config


def test_settings_are_changed_by_name() -> None:
    texts = ["lr=1e-4", "fps=1/3", "loss_weights.sal=0.5", "nms.kind=linear", "padding=shared"]
    texts += ["width = 64", "tensorboard=false", "max_minutes=2.5", "unit_s=none", "strides=[1,2]"]
    config = config_for("qvhighlights", parse_overrides(texts))
    recipe = config.recipe
    assert (recipe.lr, recipe.fps, recipe.unit_s) == (1e-4, Fraction(1, 3), None)
    assert (recipe.loss_weights.sal, recipe.loss_weights.cls) == (0.5, 1.0)
    assert recipe.nms == Nms(kind="linear", iou_threshold=0.7)
    assert recipe.strides == (1, 2)
    assert (config.model.padding, config.model.width) == (Padding.SHARED, 64)
    assert (config.options.tensorboard, config.options.max_minutes) == (False, 2.5)
    # Where a recipe has no suppression, one may be given.
    assert config_for("tvsum_bk", {"nms.kind": "linear"}).recipe.nms == Nms(kind="linear")


def test_a_file_of_settings(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('recipe = "charades"\nlr = 1e-4\nseed = 7\n[loss_weights]\nreg = 0.3\n')
    name, settings = read_settings(path)
    assert name == "charades"
    config = config_for(name, settings)
    assert (config.recipe.lr, config.options.seed) == (1e-4, 7)
    # Of a table, what is not named stays the recipe's.
    assert (config.recipe.loss_weights.reg, config.recipe.loss_weights.sal) == (0.3, 0.01)


@pytest.mark.parametrize(("name", "text"), [("a.toml", "lr = 1e-4"), ("a.json", '{"lr": 1e-4}')])
def test_a_byte_order_mark_is_left_out(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert read_settings(tmp_path / name) == (None, {"lr": 1e-4})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lrr=1", "no setting 'lrr'; did you mean lr?"),
        ("loss_weights.sall=1", "no setting 'loss_weights.sall'; did you mean loss_weights.sal"),
        ("zzz=1", "no setting 'zzz'; there are fps, unit_s"),
        ("name=x", "no setting 'name'"),
        ("lr", "'lr' is no setting; expected NAME=VALUE, such as lr=1e-4"),
        ("=1", "'=1' is no setting"),
        ("lr=-1", "lr is -1: expected `float` > 0.0"),
        ("lr=fast", "lr is 'fast': expected `float`, got `str`"),
        ("lr=NaN", "lr is nan"),
        ("epochs=1.5", "epochs is 1.5: expected `int`"),
        ("batch_size=0", "batch_size is 0: expected `int` >= 1"),
        ("dropout=1", "dropout is 1: expected `float` < 1.0"),
        ("fps=often", "fps is 'often': expected a rate such as 1/2"),
        ("fps=0", "fps is 0: expected a rate"),
        ("loss_weights.sal=-1", "loss_weights.sal is -1.0, expected 0 or more"),
        ("strides=[1,3]", "strides are (1, 3), expected 1, 2, 4"),
        ("nms.kind=hard", "nms.kind is 'hard': invalid enum value 'hard'"),
        ("precision=int8", "precision is 'int8': invalid enum value 'int8'"),
        ("loss_weights=3", "loss_weights is 3"),
    ],
)
def test_a_setting_that_cannot_be_is_reported_in_one_line(override: str, message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        config_for("qvhighlights", parse_overrides([override]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 62


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "lr = ", "cannot be read as settings"),
        ("a.json", "{", "cannot be read as settings"),
        ("a.json", "[1]", "expected settings by name, got a list"),
        ("a.toml", "recipe = 3", "recipe is 3, expected a name"),
    ],
)
def test_a_broken_file_of_settings_is_reported(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(TrainingError, match=message):
        read_settings(path)
    with pytest.raises(TrainingError, match="cannot be read as settings"):
        read_settings(tmp_path / "absent.toml")


def test_an_unknown_recipe_is_reported_with_its_neighbours() -> None:
    with pytest.raises(TrainingError, match=r"no recipe 'charade'; did you mean charades\?"):
        config_for("charade")


def test_names_of_settings_are_unique() -> None:
    plain = json.loads(write_config(config_for("qvhighlights")))
    names = [name for part in plain.values() for name in part]
    assert len(names) == len(set(names))


def test_overrides_leave_the_recipe_alone() -> None:
    before = config_for("tacos")
    after = with_overrides(before, {"lr": 1.0})
    assert isinstance(after, RunConfig)
    assert before.recipe == RECIPES["tacos"]
