"""Backgrounds: photographs, or drawn: plain, graded, noisy, striped, outdoors, cluttered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

if TYPE_CHECKING:
    from training.world.photographs import Photographs

__all__ = ["background"]

Image = NDArray[np.uint8]


def background(
    rng: Generator, size: int, *, clutter: float = 0.5, photographs: Photographs | None = None
) -> Image:
    """Draw a background, or take one out of a photograph.

    Args:
        rng: what it is drawn from; the same state gives the same image.
        size: its side in pixels.
        clutter: chance that shapes of no meaning lie on it, if it is drawn.
        photographs: what their share of the backgrounds is cut out of.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    if photographs is not None and rng.random() < photographs.share:
        return photographs.cut(rng, size)
    kind = _KINDS[rng.integers(len(_KINDS))]
    canvas = np.ascontiguousarray(kind(rng, size))
    if rng.random() < clutter:
        _clutter(rng, canvas)
    return canvas


def _colour(rng: Generator) -> Image:
    """A colour, more often a quiet one than a vivid one."""
    hue, saturation = rng.integers(0, 180), int(255 * rng.random() ** 1.6)
    value = int(255 * (1 - 0.9 * rng.random() ** 1.4))
    pixel = np.array([[[hue, saturation, value]]], np.uint8)
    colour: Image = np.asarray(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB), np.uint8)[0, 0]
    return colour


def _plain(rng: Generator, size: int) -> Image:
    return np.broadcast_to(_colour(rng), (size, size, 3))


def _gradient(rng: Generator, size: int) -> Image:
    corners = np.stack([_colour(rng) for _ in range(4)]).reshape(2, 2, 3)
    return np.asarray(cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def _noise(rng: Generator, size: int) -> Image:
    """Soft blots of colour between two colours, of a random coarseness."""
    cells = int(rng.integers(2, 13))
    amount = rng.random((cells, cells, 1), np.float32)
    first, second = _colour(rng).astype(np.float32), _colour(rng).astype(np.float32)
    blots = first + (second - first) * amount
    soft = cv2.resize(blots, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(soft, 0, 255), np.uint8)


def _colours_noise(rng: Generator, size: int) -> Image:
    cells = int(rng.integers(2, 9))
    blots = rng.integers(0, 256, (cells, cells, 3), np.uint8)
    return np.asarray(cv2.resize(blots, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def _stripes(rng: Generator, size: int) -> Image:
    angle, period = rng.random() * np.pi, size * rng.uniform(0.06, 0.4)
    steps = np.arange(size, dtype=np.float32)
    phase = (steps[:, None] * np.sin(angle) + steps[None] * np.cos(angle)) / period
    on = (phase % 1) < rng.uniform(0.3, 0.7)
    return np.where(on[..., None], _colour(rng), _colour(rng))


def _checks(rng: Generator, size: int) -> Image:
    steps = np.arange(size) // max(int(size * rng.uniform(0.08, 0.3)), 2)
    on = (steps[:, None] + steps[None]) % 2 == 0
    return np.where(on[..., None], _colour(rng), _colour(rng))


def _outdoors(rng: Generator, size: int) -> Image:
    """A graded sky over a graded ground, their edge straight or hilly."""
    sky = [
        np.array([rng.integers(90, 200), rng.integers(150, 230), 250]),
        np.array([235, 240, 250]),
    ]
    ground = _GROUNDS[rng.integers(len(_GROUNDS))] + rng.integers(-30, 31, 3)
    rows = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    upper = sky[0] + (sky[1] - sky[0]) * rows
    lower = ground * (1.15 - 0.4 * rows)
    line = rng.uniform(0.35, 0.85)
    across = np.arange(size) / size
    edge = line + rng.uniform(0, 0.12) * np.sin(across * rng.uniform(2, 12) + rng.random() * 6)
    below = rows[..., 0] > edge[None]
    return np.asarray(np.where(below[..., None], lower, upper).clip(0, 255), np.uint8)


_GROUNDS = np.array(
    [[80, 150, 60], [196, 172, 120], [120, 110, 100], [60, 120, 170], [230, 235, 240]]
)


def _indoors(rng: Generator, size: int) -> Image:
    """A wall, a floor, perhaps a window or a picture."""
    canvas = np.empty((size, size, 3), np.uint8)
    line = int(size * rng.uniform(0.5, 0.85))
    canvas[:line], canvas[line:] = _colour(rng), _colour(rng)
    if rng.random() < 0.5:
        x, y = (int(v) for v in rng.integers(0, size * 3 // 4, 2))
        width, height = (int(v) for v in rng.integers(size // 8, size // 2, 2))
        colour = tuple(int(v) for v in _colour(rng))
        cv2.rectangle(canvas, (x, y), (x + width, min(y + height, line)), colour, -1)
    return canvas


def _clutter(rng: Generator, canvas: Image) -> None:
    """Draw a few boxes, discs, lines and triangles."""
    size = canvas.shape[0]
    for _ in range(int(rng.integers(1, 7))):
        colour = tuple(int(v) for v in _colour(rng))
        (x, y), (u, v) = rng.integers(0, size, (2, 2)).tolist()
        reach = int(size * rng.uniform(0.03, 0.2)) + 1
        shape = rng.integers(4)
        if shape == 0:
            cv2.circle(canvas, (x, y), reach, colour, -1, cv2.LINE_AA)
        elif shape == 1:
            cv2.rectangle(
                canvas, (x, y), (x + reach, y + int(reach * rng.uniform(0.4, 2))), colour, -1
            )
        elif shape == 2:
            cv2.line(
                canvas, (x, y), (u, v), colour, int(rng.integers(1, 1 + size // 16)), cv2.LINE_AA
            )
        else:
            corners = np.array([x, y]) + rng.integers(-reach, reach + 1, (3, 2))
            cv2.fillPoly(canvas, [corners.astype(np.int32)], colour, cv2.LINE_AA)


_KINDS: tuple[Callable[[Generator, int], Image], ...] = (
    _plain,
    _gradient,
    _gradient,
    _noise,
    _noise,
    _colours_noise,
    _stripes,
    _checks,
    _outdoors,
    _outdoors,
    _indoors,
    _indoors,
)
