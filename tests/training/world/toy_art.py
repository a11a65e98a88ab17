"""Art that needs no network: simple drawings under the names of real concepts and styles."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.art import SPRITE_SIZE, STYLES

# What each drawing is called; the world takes them for the real things.
TOY_CONCEPTS = ("dog", "cat", "car", "pizza", "star", "guitar", "fox", "bus")
_HUES = (0, 12, 25, 55, 85, 112, 135, 155)


def write_toy_sprites(path: Path) -> Path:
    """Write a sprites file: every style draws eight shapes, each style with another texture."""
    sprites = {
        f"{style}/{concept}/0": _draw(place, number)
        for number, style in enumerate(STYLES)
        for place, concept in enumerate(TOY_CONCEPTS)
    }
    with path.open("wb") as file:
        np.savez_compressed(file, **sprites)  # type: ignore[arg-type]
    return path


def _draw(place: int, style: int) -> NDArray[np.uint8]:
    """A regular polygon with `place + 3` corners and a hue of its own; styles differ in shade."""
    size = SPRITE_SIZE
    corners = 3 + place % 4
    angles = np.arange(corners) * 2 * np.pi / corners + (place // 4) * 0.5
    points = size / 2 + (size / 2 - 3) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [points.astype(np.int32)], (255,))
    hsv = np.full((size, size, 3), (_HUES[place], 230 - 8 * style, 220 - 6 * style), np.uint8)
    image = np.dstack([cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), mask])
    return np.asarray(image, np.uint8)
