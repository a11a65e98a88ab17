"""Named colours: painting a sprite in one, and naming the one that a sprite has."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["COLOURS", "colour_of", "paint"]

Image = NDArray[np.uint8]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "orange": (245, 134, 22),
    "yellow": (250, 212, 40),
    "green": (52, 168, 66),
    "blue": (44, 104, 226),
    "purple": (138, 58, 196),
    "pink": (246, 128, 190),
    "black": (38, 38, 42),
    "white": (240, 240, 240),
}
_NAMES = tuple(COLOURS)
# The share of a sprite that must have a colour before the sprite is called by it.
_MOST = 0.6


def _ramps() -> dict[str, NDArray[np.uint8]]:
    """For each colour, the RGB of every brightness: dark, then the colour, then paler."""
    ramps = {}
    for name, rgb in COLOURS.items():
        dark = np.array(rgb) * (0.3 if name != "white" else 0.62)
        pale = np.array(rgb) + (255 - np.array(rgb)) * (0.55 if name != "black" else 0.3)
        points = np.stack([dark, np.array(rgb), pale])
        steps = np.linspace(0, 2, 256)
        ramps[name] = np.stack(
            [np.interp(steps, [0, 1.1, 2], points[:, c]) for c in range(3)], axis=1
        ).astype(np.uint8)
    return ramps


_RAMPS = _ramps()


def paint(image: Image, colour: str) -> Image:
    """Return an RGBA image in one named colour, its light and dark kept.

    Brightness is stretched to the image's own range first, so that a dark image becomes no
    darker colour.
    """
    grey = cv2.cvtColor(image[..., :3], cv2.COLOR_RGB2GRAY)
    seen = grey[image[..., 3] > 64]
    low, high = np.percentile(seen, (4, 96)) if len(seen) else (0.0, 255.0)
    middle, reach = (low + high) / 2, max(high - low, 90.0)
    stretched = np.clip((grey - middle) / reach * 190 + 128, 0, 255).astype(np.uint8)
    painted = image.copy()
    painted[..., :3] = _RAMPS[colour][stretched]
    return painted


def colour_of(image: Image) -> str | None:
    """Return the named colour that most of an RGBA image has, or None where none prevails."""
    names = _named(image[..., :3])
    alpha = image[..., 3]
    counts = np.bincount(names[alpha > 127], minlength=len(_NAMES) + 1)
    total = counts.sum()
    best = int(counts[:-1].argmax())
    return _NAMES[best] if total and counts[best] >= _MOST * total else None


def _table() -> NDArray[np.uint8]:
    """The name's place for every (hue / 4, saturation / 16, value / 16) of OpenCV's HSV."""
    hue = (np.arange(45) * 4 + 2)[:, None, None] * 2  # degrees
    saturation = (np.arange(16) * 16 + 8)[None, :, None]
    value = (np.arange(16) * 16 + 8)[None, None, :]
    table = np.full((45, 16, 16), len(_NAMES), np.uint8)

    def put(name: str, where: NDArray[np.bool_]) -> None:
        table[np.broadcast_to(where, table.shape)] = _NAMES.index(name)

    vivid = (saturation >= 100) & (value >= 110)
    put("red", vivid & ((hue < 14) | (hue >= 346)))
    put("orange", vivid & (value >= 180) & (hue >= 20) & (hue < 40))
    put("yellow", vivid & (value >= 180) & (hue >= 44) & (hue < 66))
    put("green", (saturation >= 70) & (value >= 60) & (hue >= 80) & (hue < 165))
    put("blue", (saturation >= 80) & (value >= 80) & (hue >= 190) & (hue < 248))
    put("purple", (saturation >= 80) & (value >= 70) & (hue >= 258) & (hue < 300))
    put("pink", (saturation >= 50) & (value >= 180) & (hue >= 305) & (hue < 346))
    put("black", value < 70)
    put("white", (saturation < 36) & (value >= 200))
    return table


_NAME_TABLE = _table()


def _named(rgb: Image) -> NDArray[np.uint8]:
    hsv = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV), np.uint8)
    hue, saturation, value = (np.ascontiguousarray(hsv[..., c]) for c in range(3))
    place = (hue >> 2).astype(np.uint16) << 8 | (saturation & 0xF0) | value >> 4
    named: NDArray[np.uint8] = _NAME_TABLE.ravel()[place]
    return named
