"""What a bundle says beside its weights: clip rate, rounding, window, suppression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from r2rt.errors import QueryError
from r2rt.model.contract import parse_clip_rate
from r2rt.model.manifest import Nms
from training.recipes import RECIPES, Recipe, recipe_for_sha256

__all__ = ["Settings", "choose_settings", "find_recipe"]

# A bundle names a suppression even where its model predicts no moments to suppress.
_NO_MOMENTS = Nms(kind="normal")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one export.

    Attributes:
        recipe: name of the recipe they come from.
        reason: why that recipe, as one clause for people.
        use_tef: whether the model has temporal endpoint features.
        has_offsets: whether the recipe's models predict moments.
        merge_cls_sal: whether saliency is multiplied by the cosine of clip and query.
        fps: clips a second.
        unit_s: boundaries are rounded to multiples of this many seconds; None leaves them.
        window_s: the longest video the model was trained on, in seconds; None where unknown.
        nms: suppression of the model's evaluation.
    """

    recipe: str
    reason: str
    use_tef: bool
    has_offsets: bool
    merge_cls_sal: bool
    fps: Fraction
    unit_s: float | None
    window_s: float | None
    nms: Nms


def choose_settings(
    checkpoint_sha256: str,
    *,
    has_offsets: bool,
    recipe: str | Recipe | None = None,
    fps: Fraction | None = None,
    unit_s: float | None = None,
) -> Settings:
    """Choose a checkpoint's settings: those given, else the recipe's.

    The recipe is the one given or named, else the published one of the checkpoint's sha256, else
    QVHighlights' for a model with a coordinate head and TVSum's for one without.

    Raises:
        QueryError: there is no such recipe, no bundle may have this rate (from 1/86400 to 1000, in
            whole numbers of nine digits at most), or `unit_s` is not positive and finite.
    """
    if fps is not None:
        try:
            parse_clip_rate(str(fps))
        except ValueError as error:
            raise QueryError(str(error)) from error
    if unit_s is not None and not (unit_s > 0 and math.isfinite(unit_s)):
        raise QueryError(f"unit must be a positive number of seconds, got {unit_s}")
    published = recipe_for_sha256(checkpoint_sha256)
    given = recipe if isinstance(recipe, Recipe) else None
    if isinstance(recipe, Recipe):
        name, reason = recipe.name, "given"
    elif recipe is not None:
        name, reason = recipe, "named"
    elif published is not None:
        name, reason = published, "the checkpoint is the published one"
    elif has_offsets:
        name, reason = "qvhighlights", "not a published checkpoint, but it has a coordinate head"
    else:
        name, reason = "tvsum", "not a published checkpoint, and it has no coordinate head"
    found = find_recipe(name) if given is None else given
    return Settings(
        recipe=name,
        reason=reason,
        use_tef=found.use_tef,
        has_offsets=found.has_offsets,
        merge_cls_sal=found.merge_cls_sal,
        fps=found.fps if fps is None else fps,
        unit_s=found.unit_s if unit_s is None else unit_s,
        window_s=found.window_s,
        nms=found.nms or _NO_MOMENTS,
    )


def find_recipe(name: str) -> Recipe:
    """Return a recipe by its name, or any of a data set: its domains share what matters here."""
    if name in RECIPES:
        return RECIPES[name]
    for recipe in RECIPES.values():
        if recipe.dataset == name:
            return recipe
    names = sorted({*RECIPES, *(recipe.dataset for recipe in RECIPES.values())})
    raise QueryError(f"no recipe {name!r}; there are {', '.join(names)}")
