"""Zero-shot naming: which of all concepts a new frame shows, by style."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.tiny_clip.model import TinyClip
from training.tiny_clip.rows import encode
from training.world.captions import EVALUATION_TEMPLATES
from training.world.colours import COLOURS
from training.world.compose import FrameSettings, compose_frame
from training.world.concepts import CONCEPTS, INDEX, article
from training.world.sprites import Sprites

__all__ = [
    "Score",
    "class_embeddings",
    "colour_score",
    "compose_test_frames",
    "image_embeddings",
    "score_images",
]


@dataclass(frozen=True)
class Score:
    """How often frames of a style are named right.

    Attributes:
        top1: share of frames whose concept comes first of all.
        top5: share whose concept is among the first five.
        frames: their number.
        by_concept: share named right at once, by concept.
    """

    top1: float
    top5: float
    frames: int
    by_concept: dict[str, float]


def compose_test_frames(
    sprites: Sprites, style: str, *, each: int, size: int, seed: int = 7
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Compose frames of one object each, as drawn by its artist, on backgrounds never seen before.

    Returns:
        (N, S, S, 3) uint8 frames and the (N,) places of what they show in CONCEPTS, `each` frames
        for every concept that the style knows.
    """
    settings = FrameSettings(
        size=size, objects=(1.0,), scale=(0.5, 0.9), clutter=0.3, augment=False, recolour=0.0
    )
    frames, labels = [], []
    for concept in sprites.concepts(style):
        rng = np.random.default_rng([seed, INDEX[concept]])
        for _ in range(each):
            frame = compose_frame(rng, sprites, style, settings, concepts=(concept,))
            frames.append(frame.pixels)
            labels.append(INDEX[concept])
    return np.stack(frames), np.array(labels)


@torch.no_grad()
def class_embeddings(model: TinyClip) -> Tensor:
    """Return what the text tower calls every concept, (concepts, D) unit vectors."""
    total = torch.zeros(())
    for template in EVALUATION_TEMPLATES:
        texts = [template.format(article(concept.name)) for concept in CONCEPTS]
        total = total + model.read(encode(texts))
    return F.normalize(total, dim=-1)


@torch.no_grad()
def image_embeddings(model: TinyClip, frames: NDArray[np.uint8]) -> Tensor:
    """Look at (N, S, S, 3) frames, some at a time; return (N, D) unit vectors."""
    pieces = [torch.from_numpy(frames[at : at + 128]) for at in range(0, len(frames), 128)]
    return torch.cat([model.see(piece).image for piece in pieces])


def score_images(images: Tensor, classes: Tensor, labels: NDArray[np.int64]) -> Score:
    """Name images among all classes, both unit vectors, by their cosine."""
    cosines = images @ classes.T
    right = cosines.gather(1, torch.from_numpy(labels)[:, None])
    rank = (cosines > right).sum(dim=1).numpy()
    found = {
        CONCEPTS[label].name: float((rank[labels == label] == 0).mean())
        for label in np.unique(labels)
    }
    return Score(float((rank == 0).mean()), float((rank < 5).mean()), len(rank), found)


@torch.no_grad()
def colour_score(model: TinyClip, sprites: Sprites, style: str, *, count: int, size: int) -> float:
    """Return how often "a red car" is distinguished from a car of the other named colours."""
    settings = FrameSettings(
        size=size, objects=(1.0,), scale=(0.5, 0.9), clutter=0.3, augment=False, recolour=1.0
    )
    rng = np.random.default_rng(11)
    right = 0
    frames = [compose_frame(rng, sprites, style, settings) for _ in range(count)]
    images = model.see(torch.from_numpy(np.stack([frame.pixels for frame in frames]))).image
    for frame, image in zip(frames, images, strict=True):
        thing = frame.objects[0]
        texts = [article(f"{colour} {thing.concept}") for colour in COLOURS]
        best = int((model.read(encode(texts)) @ image).argmax())
        right += tuple(COLOURS)[best] == thing.colour
    return right / count
