"""Frames made by a formula, to take ranges from and to compare on where no video is named.

They are made to be as varied as photographs are: contrast at every size of detail, as in nature
(amplitudes that fall with frequency), shapes with hard edges, lines like writing, scenes that are
dark, bright, flat or black. Only whole numbers and single float64 operations are used, so that
they are the same bytes on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["made_frames"]

Bytes = NDArray[np.uint8]
Doubles = NDArray[np.float64]

_LARGEST_SHAPES = 6


def made_frames(scenes: int, length: int, size: int, *, seed: int) -> Bytes:
    """Return frames (scenes · length, size, size, 3), RGB.

    Args:
        scenes: how many scenes; their shapes move from frame to frame.
        length: frames a scene.
        size: pixels a side.
        seed: other seeds make other scenes.
    """
    random = np.random.default_rng(seed)
    frames = np.empty((scenes, length, size, size, 3), np.uint8)
    for scene in frames:
        _fill(scene, random)
    return frames.reshape(-1, size, size, 3)


def _fill(scene: Bytes, random: np.random.Generator) -> None:
    length, size = scene.shape[:2]
    contrast = random.choice([0.0, 0.3, 0.7, 1.0, 1.5])
    base = random.integers(20, 236, 3) + contrast * _texture(size, random)
    shapes = [_Shape(random) for _ in range(random.integers(0, _LARGEST_SHAPES + 1))]
    light = random.choice([0.0, 0.25, 1.0, 1.0, 1.0, 1.0, 1.6])
    lines = random.random() < 0.3
    ink = random.integers(0, 256, 3)
    marks = random.random((size, size // 4 + 1)) < 0.6
    for index in range(length):
        image = base.copy()
        for shape in shapes:
            shape.draw(image, index / length)
        if lines:
            _write(image, marks, ink)
        scene[index] = np.rint((image * light).clip(0, 255))


def _texture(size: int, random: np.random.Generator) -> Doubles:
    """Return (size, size, 3) about 0: noise of every scale, the coarser the stronger."""
    total = np.zeros((size, size, 3))
    cells, strength = 2, 64.0
    while cells <= size:
        grey = random.integers(-64, 65, (cells + 1, cells + 1, 1))
        colour = random.integers(-24, 25, (cells + 1, cells + 1, 3))
        total += strength / 64 * _enlarged((grey + colour).astype(np.float64), size)
        cells, strength = 2 * cells, strength / 1.6
    return total


def _enlarged(grid: Doubles, size: int) -> Doubles:
    """Return a grid (n + 1, n + 1, 3) scaled to (size, size, 3), linearly."""
    for axis in (0, 1):
        at = np.arange(size) * (grid.shape[axis] - 1)
        cell, share = at // size, (at % size) / size
        share = share.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        grid = np.take(grid, cell, axis) * (1 - share) + np.take(grid, cell + 1, axis) * share
    return grid


class _Shape:
    """A disc, a rectangle or a half plane that moves, in a colour that changes along it."""

    def __init__(self, random: np.random.Generator) -> None:
        self._kind = random.integers(0, 3)
        self._start = random.random(2)
        self._motion = random.random(2) - 0.5
        self._radii = 0.04 + 0.36 * random.random(2)
        self._slope = random.random(2) - 0.5
        self._colours = random.integers(0, 256, (2, 3))

    def draw(self, image: Doubles, time: float) -> None:
        size = len(image)
        at = np.arange(size) / size
        y, x = at[:, None], at[None, :]
        centre = self._start + time * self._motion
        down, right = (y - centre[0]) / self._radii[0], (x - centre[1]) / self._radii[1]
        if self._kind == 0:
            inside = down * down + right * right < 1
        elif self._kind == 1:
            inside = (np.abs(down) < 1) & (np.abs(right) < 1)
        else:
            inside = down * self._slope[0] + right * self._slope[1] > 0.3
        shade = np.broadcast_to(x, inside.shape)[inside][:, None]
        image[inside] = self._colours[0] * (1 - shade) + self._colours[1] * shade


def _write(image: Doubles, marks: NDArray[np.bool_], ink: NDArray[np.int64]) -> None:
    """Put lines of marks, as of writing, in the lower third."""
    size = len(image)
    height = max(2, size // 28)
    for top in range(2 * size // 3, size - height, 2 * height):
        columns = np.repeat(marks[top], 4)[:size]
        image[top : top + height, columns] = ink
