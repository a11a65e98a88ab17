"""The configuration of a training run: typed, checked, changed by name, kept with the run.

It has three parts: the recipe (what is published of each data set), the model's sizes, and the
options of this run. Every setting has one name, so `lr=1e-4` is enough to change one; a setting of
a setting is reached by a dot, as in `loss_weights.sal=0.05`. A file of settings is TOML or JSON of
the same names:

    recipe = "charades"
    lr = 1e-4
    precision = "bf16"
    [loss_weights]
    sal = 0.05
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from training.errors import TrainingError
from training.model import Padding, R2Config
from training.recipes import RECIPES, Recipe

__all__ = [
    "ModelSettings",
    "RunConfig",
    "TrainOptions",
    "find_recipe",
    "parse_overrides",
    "read_settings",
    "recorded_config",
    "recorded_model",
    "validated",
    "with_overrides",
    "write_config",
]

_Whole = Annotated[int, Meta(ge=1)]
_Positive = Annotated[float, Meta(gt=0)]
# A recipe's name, data set and domain say what it is; they are no settings.
_FIXED = ("name", "dataset", "domain")
_T = TypeVar("_T")


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of the R² block that do not follow from the data; the defaults are the published ones.

    Attributes:
        width: width D of the R² block.
        layers: CLIP layers K that are read, the last ones.
        read: the layers that are read, in place of the last ones: counted from the last, -1, in
            any order, repeated or not. The block begins with the last one listed, so that the
            default of K = 4 is -4, -3, -2, -1.
        heads: attention heads of its temporal layer; 8 in every published model. Weights do not
            show it, the settings beside them do.
        padding: what padding in a batch means; see `training.model.Padding`. The published weights
            were trained with `shared`.
    """

    width: _Whole = 256
    layers: _Whole = 4
    read: Annotated[tuple[Annotated[int, Meta(le=-1)], ...], Meta(min_length=1)] | None = None
    heads: _Whole = 8
    padding: Padding = Padding.SHARED

    @classmethod
    def of(cls, config: R2Config) -> ModelSettings:
        """Return the settings of a model."""
        return cls(
            width=config.width,
            layers=config.layers,
            read=config.read_layers,
            heads=config.heads,
            padding=config.padding,
        )

    @property
    def read_layers(self) -> tuple[int, ...]:
        """The layers that are read, counted from the last, -1."""
        return tuple(range(-self.layers, 0)) if self.read is None else self.read


class TrainOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a run is carried out; none of it belongs to a recipe.

    Attributes:
        seed: of initial weights, order of samples, dropout and drawn clips.
        accelerator: where training runs; `auto` takes a GPU if there is one.
        precision: of the forward pass up to the heads; heads, losses, weights and optimizer stay in
            fp32. `auto` is that of the published training: fp16 on a GPU, fp32 on a processor,
            where its mixed precision has no effect.
        deterministic: take PyTorch's reproducible implementations where there are others.
        workers: processes that load samples; 0 loads in the training process.
        save_minutes: minutes between saved states.
        save_steps: steps between saved states, besides; None for minutes alone.
        val_epochs: epochs between validations, and one at the end; counts only with a validation.
        monitor: the validation's figure that decides which checkpoint is best, larger is better;
            None takes the first figure.
        max_steps: end training after this many steps; None trains all epochs.
        max_minutes: save and return after this many minutes, to be resumed; None for no limit.
        tensorboard: write event files for TensorBoard.
        log_steps: steps between points in TensorBoard.
    """

    seed: Annotated[int, Meta(ge=0)] = 0
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    deterministic: bool = True
    workers: Annotated[int, Meta(ge=0)] = 2
    save_minutes: _Positive = 5.0
    save_steps: _Whole | None = None
    val_epochs: _Whole = 1
    monitor: str | None = None
    max_steps: _Whole | None = None
    max_minutes: _Positive | None = None
    tensorboard: bool = True
    log_steps: _Whole = 10


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a run."""

    recipe: Recipe
    model: ModelSettings = ModelSettings()
    options: TrainOptions = TrainOptions()


def find_recipe(name: str) -> Recipe:
    """Return a published recipe.

    Raises:
        TrainingError: there is none of that name.
    """
    if name in RECIPES:
        return RECIPES[name]
    raise TrainingError(f"no recipe {name!r}; {_nearest(name, RECIPES)}")


def with_overrides(config: RunConfig, overrides: Mapping[str, object]) -> RunConfig:
    """Change settings by name; texts are read as the setting's type.

    Args:
        config: what is changed.
        overrides: values by name, such as `{"lr": "1e-4", "loss_weights.sal": 0.05}`.

    Raises:
        TrainingError: no such setting, or a value that it cannot have; the message names it.
    """
    parts: dict[str, Any] = _plain(config)
    places = _places(parts)
    for name, value in overrides.items():
        if name not in places:
            raise TrainingError(f"no setting {name!r}; {_nearest(name, places)}")
        *folder, leaf = places[name]
        record = parts
        for key in folder:
            # A setting that is off, such as `nms`, becomes a table when one of its own is set.
            record[key] = record[key] or {}
            record = record[key]
        record[leaf] = value
    return _checked(parts, RunConfig)


def parse_overrides(settings: Iterable[str]) -> dict[str, object]:
    """Read `NAME=VALUE` texts; a value is JSON, or else a plain text.

    Raises:
        TrainingError: a text has no `=`.
    """
    found: dict[str, object] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            raise TrainingError(f"{setting!r} is no setting; expected NAME=VALUE, such as lr=1e-4")
        found[name.strip()] = _value(value.strip())
    return found


def read_settings(path: Path) -> tuple[str | None, dict[str, object]]:
    """Read a file of settings: TOML or JSON, by its suffix; also a run's `config.json`.

    Returns:
        The name of the recipe that it changes, None if it names none; and its settings.

    Raises:
        TrainingError: the file cannot be read, or is not what its suffix says.
    """
    try:
        # Editors on Windows begin a file with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: cannot be read as settings ({error})") from error
    if not isinstance(content, dict):
        raise TrainingError(f"{path}: expected settings by name, got a {type(content).__name__}")
    recipe = content.pop("recipe", None)
    if isinstance(recipe, dict):
        content |= recipe
        recipe = content.get("name")
        content = {name: value for name, value in content.items() if name not in _FIXED}
    if recipe is not None and not isinstance(recipe, str):
        raise TrainingError(f"{path}: recipe is {recipe!r}, expected a name such as qvhighlights")
    for part in ("model", "options"):
        inner = content.pop(part, {})
        content |= inner if isinstance(inner, dict) else {part: inner}
    settings: dict[str, object] = {}
    for name, value in content.items():
        inner = value.items() if isinstance(value, dict) else ()
        settings |= {f"{name}.{leaf}": entry for leaf, entry in inner} or {name: value}
    return recipe, settings


def write_config(config: RunConfig) -> str:
    """Return the configuration as JSON, as a run keeps it."""
    return json.dumps(_plain(config), indent=2, ensure_ascii=False) + "\n"


def recorded_config(meta: Mapping[str, Any]) -> RunConfig | None:
    """Return the configuration that a checkpoint was trained by, if this package trained it.

    Args:
        meta: what the checkpoint says beside its tensors.
    """
    try:
        return _checked(meta.get("config"), RunConfig)
    except TrainingError:
        return None


def recorded_model(meta: Mapping[str, Any]) -> ModelSettings:
    """Return the settings of a checkpoint's model; the published ones if it does not say.

    Args:
        meta: what the checkpoint says beside its tensors.
    """
    trained = recorded_config(meta)
    return ModelSettings() if trained is None else trained.model


def validated(value: _T) -> _T:
    """Return a recipe, settings or options unchanged if every value is one that may be.

    Raises:
        TrainingError: one is not; the message names it.
    """
    return _checked(_plain(value), type(value))


def _checked(plain: object, kind: type[_T]) -> _T:
    try:
        found = msgspec.convert(plain, kind, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise TrainingError(_named(error, plain)) from error
    for record in (found, getattr(found, "recipe", None)):
        if isinstance(record, Recipe):
            _check_recipe(record)
    return found


def _check_recipe(recipe: Recipe) -> None:
    weights = msgspec.to_builtins(recipe.loss_weights)
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise TrainingError(f"loss_weights.{name} is {weight}, expected 0 or more")
    if not recipe.strides or recipe.strides != tuple(2**n for n in range(len(recipe.strides))):
        raise TrainingError(f"strides are {recipe.strides}, expected 1, 2, 4, ... without a gap")


def _named(error: msgspec.ValidationError, plain: object) -> str:
    """The message with the setting's own name and value in place of a path."""
    message, _, path = str(error).partition(" - at `$.")
    keys = path.rstrip("`").split("[")[0].split(".")
    value = plain
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    name = ".".join(key for key in keys if key not in ("recipe", "model", "options"))
    return f"{name} is {value!r}: {message[:1].lower()}{message[1:]}" if name else str(error)


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value, enc_hook=str)


def _decode(kind: type, value: object) -> object:
    if kind is not Fraction:
        raise NotImplementedError(kind)
    try:
        rate = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise ValueError(f"expected a rate such as 1/2 or 0.5, got {value!r}")
    return rate


def _places(parts: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Where each setting's name leads, `loss_weights` and `loss_weights.sal` alike."""
    places: dict[str, tuple[str, ...]] = {}
    for part, settings in parts.items():
        for name, value in settings.items():
            if part == "recipe" and name in _FIXED:
                continue
            places[name] = (part, name)
            inner = value if isinstance(value, dict) else _INNER.get(name, {})
            places |= {f"{name}.{leaf}": (part, name, leaf) for leaf in inner}
    return places


# Of a setting that is None in some recipes: what it has where it is not.
_INNER = {"nms": ("kind", "iou_threshold", "sigma")}


def _value(text: str) -> object:
    if text.lower() in ("none", "null"):
        return None
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value


def _nearest(name: str, names: Iterable[str]) -> str:
    known = list(names)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
