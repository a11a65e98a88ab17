"""How each published checkpoint was trained and is evaluated, by data set."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Annotated

from msgspec import Meta

from r2rt.model.manifest import Nms
from r2rt.model.registry import PUBLISHED
from training.losses import LossWeights

__all__ = ["RECIPES", "Recipe", "recipe_for_sha256"]

# What training.config checks of a recipe that a person has changed.
_Positive = Annotated[float, Meta(gt=0)]
_Whole = Annotated[int, Meta(ge=1)]
_Share = Annotated[float, Meta(ge=0, lt=1)]
_NotNegative = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One data set's settings; the defaults are QVHighlights'.

    Attributes:
        name: of the checkpoint, such as `qvhighlights` or `tvsum_bk`.
        dataset: data set that it belongs to, such as `tvsum`.
        domain: the data set's own name of the domain that is trained on its own; None without.
        fps: clips a second.
        unit_s: boundaries are rounded to multiples of this many seconds; None leaves them.
        window_s: length that all training videos are cut to, in seconds; None where they vary.
        nms: suppression in evaluation; None where no moments are predicted.
        strides: the pyramid's strides in clips.
        use_tef: whether temporal endpoints join the tokens.
        has_offsets: whether moments are predicted.
        merge_cls_sal: whether saliency is multiplied by the cosine of clip and query.
        dropout: in the maps.
        drop_path: in the temporal layer.
        loss_weights: factors of the loss terms.
        batch_size: queries a step.
        passes: passes over the training set that make an epoch.
        epochs: how many.
        decay_epoch: epoch after which the learning rate is a tenth; None for never.
        lr: AdamW's learning rate.
        weight_decay: AdamW's.
        warmup_steps: steps of linear warm-up.
        warmup_ratio: share of the learning rate that the warm-up begins at.
        clip_norm: the gradient's largest norm.
        min_video_s: training videos shorter than this are dropped, in seconds; 0 keeps all.
    """

    name: str
    dataset: str
    domain: str | None = None
    fps: Fraction = Fraction(1, 2)
    unit_s: _Positive | None = None
    window_s: _Positive | None = None
    nms: Nms | None = None
    strides: tuple[_Whole, ...] = (1, 2, 4, 8)
    use_tef: bool = True
    has_offsets: bool = True
    merge_cls_sal: bool = True
    dropout: _Share = 0.5
    drop_path: _Share = 0.1
    loss_weights: LossWeights = field(default_factory=LossWeights)
    batch_size: _Whole = 32
    passes: _Whole = 1
    epochs: _Whole = 30
    decay_epoch: _Whole | None = 20
    lr: _Positive = 5e-4
    weight_decay: _NotNegative = 1e-4
    warmup_steps: Annotated[int, Meta(ge=0)] = 500
    warmup_ratio: Annotated[float, Meta(gt=0, le=1)] = 1e-3
    clip_norm: _Positive = 35.0
    min_video_s: _NotNegative = 5.0


def recipe_for_sha256(sha256: str) -> str | None:
    """Return the recipe of the published checkpoint with this sha256, or None.

    The first 8 hexadecimal digits are what the publication gives.
    """
    return _NAME_BY_HASH8.get(sha256[:8].lower()) if len(sha256) == 64 else None


_LINEAR = Nms(kind="linear")

_QVHIGHLIGHTS = Recipe(
    name="qvhighlights",
    dataset="qvhighlights",
    unit_s=2.0,
    window_s=150.0,
    nms=Nms(kind="normal", iou_threshold=0.7),
    batch_size=128,
    passes=4,
)
_CHARADES = Recipe(
    name="charades",
    dataset="charades",
    fps=Fraction(1),
    unit_s=0.1,
    nms=_LINEAR,
    dropout=0.35,
    loss_weights=LossWeights(sal=0.01),
    epochs=50,
    decay_epoch=30,
    lr=2.5e-4,
)
_EGO4D = Recipe(name="ego4d", dataset="ego4d", nms=_LINEAR, dropout=0.3, lr=2.5e-4)
_TACOS = Recipe(
    name="tacos",
    dataset="tacos",
    nms=_LINEAR,
    loss_weights=LossWeights(sal=0.05),
    epochs=100,
    decay_epoch=50,
    lr=2.5e-4,
)
_TVSUM = Recipe(
    name="tvsum",
    dataset="tvsum",
    strides=(1,),
    use_tef=False,
    has_offsets=False,
    merge_cls_sal=False,
    batch_size=4,
    epochs=500,
    decay_epoch=None,
    warmup_steps=50,
    min_video_s=0.0,
)
# In training a video's rate is its labelled clips over its duration: a clip every 50 frames, of
# whatever frame rate the video has. At 30 frames a second that is 3/5, and the median of the
# validation videos is 0.59; it stands for all videos where there are no labels to count.
_YOUTUBE = replace(_TVSUM, name="youtube", dataset="youtube", fps=Fraction(3, 5), epochs=200)

_YOUTUBE_DOMAINS = {
    "dog": "dog",
    "gym": "gymnastics",
    "par": "parkour",
    "ska": "skating",
    "ski": "skiing",
    "sur": "surfing",
}


def _recipe(name: str) -> Recipe:
    whole = {r.name: r for r in (_QVHIGHLIGHTS, _CHARADES, _EGO4D, _TACOS)}
    if name in whole:
        return whole[name]
    dataset, _, domain = name.partition("_")
    if dataset == "tvsum":
        return replace(_TVSUM, name=name, domain=domain.upper())
    return replace(_YOUTUBE, name=name, domain=_YOUTUBE_DOMAINS[domain])


RECIPES: dict[str, Recipe] = {name: _recipe(name) for name in PUBLISHED}
"""Every published checkpoint's recipe, by name."""

_NAME_BY_HASH8 = {model.hash8: name for name, model in PUBLISHED.items()}
