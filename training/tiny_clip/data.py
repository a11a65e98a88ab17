"""Batches of composed frames and captions, made in a worker while the model trains."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from training.tiny_clip.rows import encode
from training.world.art import STYLES
from training.world.captions import Caption, Mention, describe
from training.world.colours import COLOURS
from training.world.compose import Frame, FrameSettings, compose_frame
from training.world.concepts import CONCEPTS, INDEX, article
from training.world.photographs import Photographs
from training.world.sprites import LINE_STYLE, Sprites

__all__ = ["IGNORED", "TRAIN_STYLES", "Batch", "Frames", "make_batch", "settings_at"]

TRAIN_STYLES = tuple(style.name for style in STYLES.values() if style.role == "train")
# The label of a patch that no loss looks at.
IGNORED = -100

_COLOUR_INDEX = {name: index for index, name in enumerate(COLOURS)}
# Line drawings are the style least like any other; they are shown half as often.
_STYLE_CHANCES = np.array([0.5 if style == LINE_STYLE else 1.0 for style in TRAIN_STYLES])
_STYLE_CHANCES /= _STYLE_CHANCES.sum()
_PATCH = 8


class Batch(NamedTuple):
    """B frames and N >= B captions: caption i is true of frame i; the rest are mostly false ones.

    Attributes:
        frames: (B, S, S, 3) uint8.
        shares: (B, concepts) float32: how much of what a frame shows is of each concept; rows sum
            to one.
        patches: (B, P) int64: concept of each patch, `len(CONCEPTS)` for background, or IGNORED.
        colours: (B, P) int64: named colour of each patch, or IGNORED.
        ids: (N, L) int64 CLIP token ids.
        truth: (B, N) bool: whether a caption is true of a frame.
        named: (N,) int64: the concept of a caption that names one alone, else IGNORED.
    """

    frames: Tensor
    shares: Tensor
    patches: Tensor
    colours: Tensor
    ids: Tensor
    truth: Tensor
    named: Tensor


@dataclass(frozen=True)
class _Stage:
    until: float
    size: int
    objects: tuple[float, ...]
    scale: tuple[float, float]
    clutter: float


# From large single objects in small frames to several small ones in full frames.
_STAGES = (
    _Stage(0.04, 40, (1.0,), (0.65, 1.0), 0.1),
    _Stage(0.1, 40, (0.9, 0.1), (0.5, 1.0), 0.3),
    _Stage(0.28, 40, (0.65, 0.3, 0.05), (0.38, 1.0), 0.5),
    _Stage(0.4, 64, (0.55, 0.35, 0.1), (0.32, 0.95), 0.5),
    _Stage(1.01, 64, (0.5, 0.36, 0.14), (0.26, 0.95), 0.5),
)


def settings_at(progress: float) -> FrameSettings:
    """Return how hard frames are at a share of the training, 0 to 1."""
    stage = next(stage for stage in _STAGES if progress < stage.until)
    return FrameSettings(
        size=stage.size,
        patch=_PATCH,
        objects=stage.objects,
        scale=stage.scale,
        clutter=stage.clutter,
        recolour=0.25,
    )


class Frames(IterableDataset[Batch]):
    """Batches without end, each drawn from the seed and its own number."""

    def __init__(
        self,
        sprites: Path,
        *,
        seed: int,
        first: int,
        batch: int,
        steps: int,
        first_stage: float = 0.0,
        photographs: Photographs | None = None,
    ) -> None:
        """Set up.

        Args:
            sprites: the file that `training.world.art` made.
            seed: of everything.
            first: number of the first batch.
            batch: frames a batch.
            steps: batches of the training.
            first_stage: how hard frames are at least, 0 to 1.
            photographs: backgrounds beside the drawn ones.
        """
        self.sprites, self.seed, self.first, self.batch = sprites, seed, first, batch
        self.steps, self.first_stage = steps, first_stage
        self.photographs = photographs

    def __iter__(self) -> Iterator[Batch]:
        import cv2

        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        sprites = Sprites(self.sprites)
        number = self.first
        while True:
            rng = np.random.default_rng([self.seed, number])
            settings = settings_at(self._stage(number))
            yield make_batch(rng, sprites, settings, self.batch, self.photographs)
            number += 1

    def _stage(self, number: int) -> float:
        """Return how hard the frames of batch `number` are, 0 to 1."""
        return min(max(number / self.steps, self.first_stage), 1.0)


def make_batch(
    rng: Generator,
    sprites: Sprites,
    settings: FrameSettings,
    size: int,
    photographs: Photographs | None = None,
) -> Batch:
    """Compose `size` frames, a true caption for each and false ones for half as many."""
    styles = rng.choice(len(TRAIN_STYLES), size, p=_STYLE_CHANCES)
    frames = [
        compose_frame(rng, sprites, TRAIN_STYLES[style], settings, photographs=photographs)
        for style in styles
    ]
    captions = [describe(rng, frame.objects) for frame in frames]
    captions += [_altered(rng, caption) for caption in captions[: size // 2]]
    return Batch(
        frames=torch.from_numpy(np.stack([frame.pixels for frame in frames])),
        shares=torch.from_numpy(np.stack([_shares(frame) for frame in frames])),
        patches=torch.from_numpy(np.stack([_patch_concepts(frame) for frame in frames])),
        colours=torch.from_numpy(np.stack([_patch_colours(frame) for frame in frames])),
        ids=encode(caption.text for caption in captions),
        truth=torch.from_numpy(_truth(frames, captions)),
        named=torch.tensor([_only(caption) for caption in captions]),
    )


def _truth(frames: Sequence[Frame], captions: Sequence[Caption]) -> NDArray[np.bool_]:
    """Return whether a caption is true of a frame, (B, N), by the rule of `is_true`."""
    # Of each concept, whether a frame shows it at all, and in each named colour.
    shown = np.zeros((len(frames), len(CONCEPTS), 1 + len(COLOURS)), np.bool_)
    for row, frame in zip(shown, frames, strict=True):
        for thing in frame.objects:
            row[INDEX[thing.concept], 0] = True
            if thing.colour is not None:
                row[INDEX[thing.concept], 1 + _COLOUR_INDEX[thing.colour]] = True
    truth = np.ones((len(frames), len(captions)), np.bool_)
    for number, caption in enumerate(captions):
        for mention in caption.mentions:
            colour = 0 if mention.colour is None else 1 + _COLOUR_INDEX[mention.colour]
            truth[:, number] &= shown[:, INDEX[mention.concept], colour]
    return truth


def _shares(frame: Frame) -> NDArray[np.float32]:
    """What a frame shows, by how much of each object is to be seen."""
    shares: NDArray[np.float32] = np.zeros(len(CONCEPTS), np.float32)
    for thing in frame.objects:
        shares[INDEX[thing.concept]] += thing.visible + 1e-3
    shares /= shares.sum()
    return shares


def _patch_concepts(frame: Frame) -> NDArray[np.int64]:
    # The last two entries are reached as -2, an object's edge, and -1, nothing.
    table = [*(INDEX[thing.concept] for thing in frame.objects), IGNORED, len(CONCEPTS)]
    return np.array(table)[frame.patch_labels.ravel()]


def _patch_colours(frame: Frame) -> NDArray[np.int64]:
    table = [_COLOUR_INDEX.get(thing.colour or "", IGNORED) for thing in frame.objects]
    return np.array([*table, IGNORED, IGNORED])[frame.patch_labels.ravel()]


def _only(caption: Caption) -> int:
    mentions = {mention.concept for mention in caption.mentions}
    return INDEX[mentions.pop()] if len(mentions) == 1 else IGNORED


def _altered(rng: Generator, caption: Caption) -> Caption:
    """The caption with another colour where it names one, else with another thing."""
    mention = caption.mentions[int(rng.integers(len(caption.mentions)))]
    if mention.colour is not None:
        others = [name for name in COLOURS if name != mention.colour]
        colour = others[int(rng.integers(len(others)))]
        text = caption.text.replace(f"{mention.colour} ", f"{colour} ", 1)
        changed = Mention(mention.concept, colour)
        # Where both things have that colour, the first in the sentence is the one that changed.
        if [m.colour for m in caption.mentions].count(mention.colour) > 1:
            mention, changed = caption.mentions[0], Mention(caption.mentions[0].concept, colour)
    else:
        concept = CONCEPTS[int(rng.integers(len(CONCEPTS)))]
        known = CONCEPTS[INDEX[mention.concept]].names
        said = max((name for name in known if re.search(rf"\b{name}\b", caption.text)), key=len)
        text = re.sub(rf"\b{re.escape(said)}\b", concept.name, caption.text, count=1)
        changed = Mention(concept.name, None)
    mentions = tuple(changed if m == mention else m for m in caption.mentions)
    # Otherwise a wrong "a" or "an" would reveal that a caption is false.
    return Caption(re.sub(r"\ban? (\w+)", lambda found: article(found[1]), text), mentions)
