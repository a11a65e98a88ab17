"""Samples, models and recipes small enough to train in a test."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.golden_data import GOLDEN, load_arrays
from training.checkpoint import build_model
from training.config import TrainOptions
from training.data.sample import Sample
from training.losses import LossWeights
from training.model import Padding, R2Config, R2Tuning
from training.recipes import RECIPES, Recipe

OPTIONS = TrainOptions(workers=0, tensorboard=False, accelerator="cpu")


class RandomSamples:
    """Videos of unequal lengths with a moment each; the index determines a sample.

    With `drawing`, as with data augmentation, the values come from the global generators instead.
    """

    def __init__(self, count: int = 10, *, drawing: bool = False, shortest: int = 9) -> None:
        self._count = count
        self._drawing = drawing
        self._shortest = shortest

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        generator = None if self._drawing else torch.Generator().manual_seed(index)
        clips, tokens = self._shortest + index % 5, 3 + index % 3
        relevant = torch.arange(3, 6 + index % 3)
        saliency = torch.zeros(clips).index_fill(0, relevant, 1.0)
        video = torch.randn(clips, 2, 5, 16, generator=generator)
        if self._drawing:
            video += float(np.random.normal())  # noqa: NPY002
        # The frames show where the moment is.
        video[relevant] += 2.0
        return Sample(
            video=video.half(),
            query=torch.randn(tokens, 2, 12, generator=generator).half(),
            fps=0.5,
            duration_s=2.0 * clips,
            moments_s=torch.tensor([[6.0, 2.0 * (6 + index % 3)]]),
            saliency=saliency,
            relevant_clips=relevant,
            qid=index,
            vid=f"video{index}",
            text="a query",
        )


class GoldenSamples:
    """The samples of a golden batch, unpadded, each with the one clip that was drawn."""

    def __init__(self, stem: Path = GOLDEN / "loss_moment") -> None:
        self._arrays = load_arrays(stem.with_suffix(".npz"))

    def __len__(self) -> int:
        return len(self._arrays["video"])

    def __getitem__(self, index: int) -> Sample:
        arrays: dict[str, Any] = {
            name: torch.from_numpy(value[index]) if value.ndim else value
            for name, value in self._arrays.items()
            if value.ndim > 1
        }
        clips = int(self._arrays["video_len"][index])
        tokens = int(self._arrays["query_len"][index])
        fps = float(self._arrays["fps"])
        moments = arrays.get("boundary")
        if moments is not None:
            moments = moments[moments[:, 0] < math.inf].float()
        return Sample(
            video=arrays["video"][:clips],
            query=arrays["query"][:tokens],
            fps=fps,
            duration_s=clips / fps,
            moments_s=moments,
            saliency=arrays["saliency"][:clips].float(),
            relevant_clips=torch.tensor([int(self._arrays["pos_clip"][index])]),
            qid=index,
            vid=f"golden{index}",
            text="a query",
        )


def small_model(*, dropout: float = 0.5, seed: int = 0) -> R2Tuning:
    """A model for `RandomSamples`."""
    torch.manual_seed(seed)
    return R2Tuning(
        R2Config(width=32, layers=2, vision_width=16, text_width=12, heads=4, dropout=dropout)
    )


def small_recipe(**changes: Any) -> Recipe:
    """QVHighlights' recipe for `RandomSamples`: 10 samples, 5 steps an epoch, 20 in all."""
    settings = {"batch_size": 4, "passes": 2, "epochs": 4, "decay_epoch": 3, "warmup_steps": 6}
    return replace(RECIPES["qvhighlights"], **(settings | changes))


def golden_model(name: str = "moment", *, dropout: float = 0.5, drop_path: float = 0.1) -> R2Tuning:
    return build_model(
        GOLDEN / f"{name}.pth", dropout=dropout, drop_path=drop_path, padding=Padding.EXACT
    )


def golden_recipe(name: str, weights: LossWeights | None = None, **changes: Any) -> Recipe:
    """A recipe that takes a golden batch in one step."""
    recipe = RECIPES["qvhighlights" if name == "moment" else "tvsum_bk"]
    settings = {"batch_size": 3, "passes": 1, "epochs": 20, "warmup_steps": 0, "min_video_s": 0.0}
    return replace(
        recipe, **(settings | {"loss_weights": weights or recipe.loss_weights} | changes)
    )
