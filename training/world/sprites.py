"""Sprites of the emoji world in memory, at three sizes, with the colours that they have."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.art import STYLES
from training.world.colours import colour_of
from training.world.concepts import CONCEPTS
from training.world.errors import ArtError

__all__ = ["LINE_STYLE", "Sprites"]

Image = NDArray[np.uint8]

# The style that is drawn in black lines alone; it is filled with a colour where it is shown.
LINE_STYLE = "fluent-line"
_SIZES = (96, 48, 24)
_PARTS = 5
# Where colours (8-bit CIELAB) vary less than this, an image is one part.
_ONE_COLOUR = 4.0


class Sprites:
    """All images that `training.world.art` made.

    Images are (S, S, 4) uint8 RGBA, colour not premultiplied, their longer side filling S.
    """

    def __init__(self, path: Path) -> None:
        """Read `sprites.npz`.

        Raises:
            ArtError: there is no such file, or it is not of this world.
        """
        if not path.is_file():
            raise ArtError(
                f"{path} is no file; make it with: python -m training.world.art --out {path.parent}"
            )
        self._images: dict[tuple[str, str, int], tuple[Image, ...]] = {}
        with np.load(path) as archive:
            for key in archive.files:
                style, concept, variant = key.split("/")
                self._images[style, concept, int(variant)] = _sizes(archive[key])
        self._variants: dict[tuple[str, str], tuple[int, ...]] = {}
        for style, concept, variant in self._images:
            known = self._variants.get((style, concept), ())
            self._variants[style, concept] = (*known, variant)
        names = [concept.name for concept in CONCEPTS]
        self._concepts = {
            style: tuple(name for name in names if (style, name) in self._variants)
            for style in STYLES
        }
        if not self._concepts["noto"]:
            raise ArtError(f"{path} holds no images of this world; make it anew")
        self._fills: dict[tuple[str, int], Image] = {}
        self._colours: dict[tuple[str, str, int], str | None] = {}
        self._parts: dict[tuple[str, str, int, int], Image] = {}

    def concepts(self, style: str) -> tuple[str, ...]:
        """Names of the concepts that a style has images of."""
        return self._concepts[style]

    def variants(self, style: str, concept: str) -> tuple[int, ...]:
        """Variants that a style has of a concept; none where it does not know it."""
        return self._variants.get((style, concept), ())

    def image(self, style: str, concept: str, variant: int = 0, size: int = 96) -> Image:
        """Return an image of 96, 48 or 24 px: the smallest that is not below `size`."""
        images = self._images[style, concept, variant]
        level = sum(size <= known for known in _SIZES) - 1
        return images[max(level, 0)]

    def fill(self, concept: str, variant: int = 0) -> Image:
        """Return the (96, 96) uint8 silhouette of a line drawing, what it encloses included."""
        key = (concept, variant)
        if key not in self._fills:
            self._fills[key] = _silhouette(self._images[LINE_STYLE, concept, variant][0])
        return self._fills[key]

    def parts(self, style: str, concept: str, variant: int = 0, size: int = 96) -> Image:
        """Return which part an image's pixels belong to, by colour: (S, S) uint8 from 0.

        The image is that of `image` with the same arguments. Parts are clusters of what is
        visible; a pixel that is not has the part whose colour is nearest. An image of one colour
        is one part.
        """
        image = self.image(style, concept, variant, size)
        key = (style, concept, variant, image.shape[0])
        if key not in self._parts:
            self._parts[key] = _parts_by_colour(image)
        return self._parts[key]

    def colour(self, style: str, concept: str, variant: int = 0) -> str | None:
        """Return the name of the colour that most of an image has, if one has."""
        key = (style, concept, variant)
        if key not in self._colours:
            self._colours[key] = colour_of(self._images[key][1])
        return self._colours[key]


def _sizes(image: Image) -> tuple[Image, ...]:
    """The image at every size, averaged with its alpha as the weight."""
    weighted = image.astype(np.float32)
    weighted[..., :3] *= weighted[..., 3:] / np.float32(255)
    found = []
    for size in _SIZES:
        small: NDArray[np.float32] = np.asarray(
            cv2.resize(weighted, (size, size), interpolation=cv2.INTER_AREA), np.float32
        )
        small[..., :3] *= np.float32(255) / np.maximum(small[..., 3:], np.float32(1))
        found.append(np.clip(small + 0.5, 0, 255).astype(np.uint8))
    return tuple(found)


def _silhouette(image: Image) -> Image:
    """What cannot be reached from outside across a drawing's lines."""
    border = 2
    walls = cv2.copyMakeBorder(
        (image[..., 3] > 96).astype(np.uint8),
        border,
        border,
        border,
        border,
        borderType=cv2.BORDER_CONSTANT,
        value=(0,),
    )
    walls = cv2.morphologyEx(walls, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    cv2.floodFill(walls, None, (0, 0), (2,))
    inside = ((walls != 2) * 255).astype(np.uint8)
    inside = cv2.morphologyEx(inside, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return np.ascontiguousarray(inside[border:-border, border:-border])


def _parts_by_colour(image: Image) -> Image:
    """Number each pixel of an RGBA image by its cluster of colour (k-means)."""
    colours = cv2.cvtColor(image[..., :3], cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)
    visible = colours[image[..., 3].ravel() > 127]
    if len(visible) < _PARTS or visible.std(axis=0).max() < _ONE_COLOUR:
        return np.zeros(image.shape[:2], np.uint8)
    cv2.setRNGSeed(0)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 12, 1.0)
    start = np.zeros((len(visible), 1), np.int32)
    centres = cv2.kmeans(visible, _PARTS, start, criteria, 1, cv2.KMEANS_PP_CENTERS)[2]
    distances = np.square(colours[:, None] - np.asarray(centres)).sum(axis=2)
    parts: Image = distances.argmin(axis=1).astype(np.uint8).reshape(image.shape[:2])
    return parts
