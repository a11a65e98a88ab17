"""Frames of the emoji world: sprites, recoloured and deformed, on backgrounds, with the truth.

Everything is drawn from a numpy Generator: the same state gives the same frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.world.backgrounds import background
from training.world.colours import COLOURS, colour_of, paint
from training.world.photographs import Photographs
from training.world.sprites import LINE_STYLE, Sprites

__all__ = [
    "AMBIGUOUS",
    "NOTHING",
    "Frame",
    "FrameSettings",
    "Look",
    "Placed",
    "background",
    "compose_frame",
    "look",
    "paste",
]

Image = NDArray[np.uint8]

# Labels of patches that show no object, and of those that an object's edge crosses.
NOTHING = -1
AMBIGUOUS = -2
_COLOUR_NAMES = tuple(COLOURS)
_LEVELS = np.arange(256)
# How often an image's parts get colours of their own, and how often its proportions change.
_REPAINTED = 0.4
_BENT = 0.4


@dataclass(frozen=True)
class Look:
    """How one object is drawn: fixed while it is in view.

    Attributes:
        concept: its name.
        image: (96, 96, 4) or smaller uint8 RGBA, colour not premultiplied.
        colour: the named colour that it has, or None where no one colour prevails.
    """

    concept: str
    image: Image
    colour: str | None


@dataclass(frozen=True)
class Placed:
    """An object in a frame.

    Attributes:
        concept: its name.
        colour: its named colour, or None.
        box: left, top, right, bottom of its square in pixels; may reach beyond the frame.
        visible: the share of it that is inside the frame and not behind another object.
    """

    concept: str
    colour: str | None
    box: tuple[float, float, float, float]
    visible: float


@dataclass(frozen=True)
class Frame:
    """A frame and what is true of it.

    Attributes:
        pixels: (S, S, 3) uint8 RGB.
        objects: what it shows, the last on top.
        patch_labels: (S / patch, S / patch) int8: place in `objects` of what a patch shows, or
            NOTHING, or AMBIGUOUS.
    """

    pixels: Image
    objects: tuple[Placed, ...]
    patch_labels: NDArray[np.int8]


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """How hard frames are.

    Attributes:
        size: side of a frame in pixels.
        patch: side of a patch in pixels.
        objects: chances of one, two, three ... objects; they sum to one.
        scale: least and greatest size of an object, as a share of the frame's side.
        clutter: chance of shapes on the background.
        angle: greatest rotation, in degrees, either way.
        augment: whether looks vary beyond the art itself (colours of it all and of its parts,
            outlines, shades, deformation).
        recolour: chance that an object is painted in a named colour.
    """

    size: int = 64
    patch: int = 8
    objects: tuple[float, ...] = (0.6, 0.3, 0.1)
    scale: tuple[float, float] = (0.3, 0.9)
    clutter: float = 0.5
    angle: float = 25.0
    augment: bool = True
    recolour: float = 0.25


def compose_frame(
    rng: Generator,
    sprites: Sprites,
    style: str,
    settings: FrameSettings,
    *,
    concepts: tuple[str, ...] | None = None,
    photographs: Photographs | None = None,
) -> Frame:
    """Compose a frame of objects of one style.

    Args:
        rng: what everything is drawn from.
        sprites: the images.
        style: whose images.
        settings: how hard.
        concepts: what it shows; drawn from what the style has when None.
        photographs: backgrounds beside the drawn ones.
    """
    if concepts is None:
        count = 1 + int(rng.choice(len(settings.objects), p=settings.objects))
        known = sprites.concepts(style)
        concepts = tuple(known[i] for i in rng.choice(len(known), count, replace=False))
    size = settings.size
    canvas = background(rng, size, clutter=settings.clutter, photographs=photographs)
    owners = np.full((size, size), NOTHING, np.int8)
    drawn: list[tuple[Look, tuple[float, float, float, float], int]] = []
    largest = settings.scale[1] / len(concepts) ** 0.5
    for place, spot in enumerate(_spots(rng, len(concepts), size)):
        scale = rng.uniform(min(settings.scale[0], largest), largest)
        chosen = look(
            rng,
            sprites,
            style,
            concepts[place],
            augment=settings.augment,
            recolour=settings.recolour,
            size=int(scale * size),
        )
        inside = max(size * (1 - scale) / 2 + 0.2 * scale * size, 0)
        x, y = (float(np.clip(v, size / 2 - inside, size / 2 + inside)) for v in spot)
        area = _paste_warped(rng, canvas, owners, place, chosen.image, x, y, scale, settings)
        half = scale * size / 2
        drawn.append((chosen, (x - half, y - half, x + half, y + half), area))
    if settings.augment:
        canvas = _finish(rng, canvas)
    seen = np.bincount(owners[owners >= 0].ravel(), minlength=len(drawn))
    objects = tuple(
        Placed(chosen.concept, chosen.colour, box, min(seen[place] / max(area, 1), 1.0))
        for place, (chosen, box, area) in enumerate(drawn)
    )
    return Frame(canvas, objects, _patch_labels(owners, settings.patch, len(drawn)))


def look(
    rng: Generator,
    sprites: Sprites,
    style: str,
    concept: str,
    *,
    variant: int | None = None,
    colour: str | None = None,
    augment: bool = True,
    recolour: float = 0.0,
    size: int = 96,
) -> Look:
    """Choose how an object is drawn.

    Args:
        rng: what is drawn from.
        sprites: the images.
        style: whose.
        concept: its name.
        variant: which of the style's images of it; drawn when None.
        colour: the named colour to paint it in, whatever the chances say.
        augment: whether colours, shades and outlines vary beyond the art itself.
        recolour: chance that it is painted in a named colour where none is asked for.
        size: about how many pixels it will be wide; chooses among 96, 48 and 24.
    """
    if variant is None:
        variants = sprites.variants(style, concept)
        variant = variants[int(rng.integers(len(variants)))]
    image = sprites.image(style, concept, variant, size)
    if colour is None and rng.random() < recolour:
        colour = _COLOUR_NAMES[int(rng.integers(len(_COLOUR_NAMES)))]
    if style == LINE_STYLE:
        filling = colour or _COLOUR_NAMES[int(rng.integers(len(_COLOUR_NAMES)))]
        image = _filled(image, sprites.fill(concept, variant), filling)
    elif colour is not None:
        image = paint(image, colour)
    elif augment and rng.random() < _REPAINTED:
        image = _repainted(rng, image, sprites.parts(style, concept, variant, size))
    if augment and rng.random() < _BENT:
        image = _bent(rng, image)
    if augment:
        image = _jitter(rng, image, shift_hue=colour is None and rng.random() < 0.3)
    named = colour if colour is not None else colour_of(image)
    if augment and rng.random() < 0.18:
        image = _outlined(rng, image)
    return Look(concept, image, named)


def paste(
    canvas: Image,
    image: Image,
    x: float,
    y: float,
    scale: float,
    angle: float = 0.0,
    flip: bool = False,
    stretch: tuple[float, float] = (1.0, 1.0),
    shear: float = 0.0,
) -> tuple[slice, slice, Image]:
    """Draw an image onto a canvas, in place.

    Args:
        canvas: (H, W, 3) uint8 RGB.
        image: (S, S, 4) uint8 RGBA, colour not premultiplied.
        x: centre from the left, in pixels of the canvas.
        y: centre from the top.
        scale: its side as a share of the canvas's shorter side.
        angle: rotation in degrees, anticlockwise.
        flip: whether it is mirrored left to right.
        stretch: factors of its width and height.
        shear: share of its height by which its top is moved sideways.

    Returns:
        The rows and columns of the canvas that it may have changed, and its alpha there (uint8).
        Empty where it lies outside.
    """
    height, width = canvas.shape[:2]
    side = scale * min(height, width)
    source = image.shape[0]
    factor = side / source
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    shape = np.array([[(-1.0 if flip else 1.0) * stretch[0], shear], [0.0, stretch[1]]])
    linear = factor * np.array([[cos, sin], [-sin, cos]]) @ shape
    reach = np.abs(linear).sum(axis=1) * source / 2 + 1
    left, top = max(int(x - reach[0]), 0), max(int(y - reach[1]), 0)
    right, bottom = min(int(x + reach[0]) + 2, width), min(int(y + reach[1]) + 2, height)
    if right <= left or bottom <= top:
        return slice(0, 0), slice(0, 0), np.zeros((0, 0), np.uint8)
    centre = (source - 1) / 2
    offset = np.array([x - 0.5 - left, y - 0.5 - top]) - linear @ np.array([centre, centre])
    premultiplied = _premultiplied(image)
    warped: Image = np.asarray(
        cv2.warpAffine(
            premultiplied,
            np.hstack([linear, offset[:, None]]),
            (right - left, bottom - top),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
        ),
        np.uint8,
    )
    rows, columns = slice(top, bottom), slice(left, right)
    alpha = np.ascontiguousarray(warped[..., 3])
    below = _shaded(canvas[rows, columns], 255 - alpha)
    canvas[rows, columns] = cv2.add(np.ascontiguousarray(warped[..., :3]), below)
    return rows, columns, alpha


def _premultiplied(image: Image) -> Image:
    out = image.copy()
    out[..., :3] = _shaded(image[..., :3], np.ascontiguousarray(image[..., 3]))
    return out


def _shaded(colours: Image, factor: Image) -> Image:
    """Return (H, W, 3) colours times (H, W) factors of 255, rounded to the nearest."""
    factors = cv2.merge([factor, factor, factor])
    shaded = cv2.multiply(np.ascontiguousarray(colours), factors, scale=1 / 255)
    return np.asarray(shaded, np.uint8)


def _spots(rng: Generator, count: int, size: int) -> list[tuple[float, float]]:
    """Centres that lie apart: anywhere for one object, in different parts for several."""
    if count == 1:
        return [(float(rng.uniform(0, size)), float(rng.uniform(0, size)))]
    turn = rng.random() * 2 * np.pi
    angles = turn + 2 * np.pi * np.arange(count) / count + rng.uniform(-0.3, 0.3, count)
    radius = size * rng.uniform(0.24, 0.36, count)
    return [
        (float(size / 2 + r * np.cos(a)), float(size / 2 + r * np.sin(a)))
        for a, r in zip(angles, radius, strict=True)
    ]


def _paste_warped(
    rng: Generator,
    canvas: Image,
    owners: NDArray[np.int8],
    place: int,
    image: Image,
    x: float,
    y: float,
    scale: float,
    settings: FrameSettings,
) -> int:
    """Paste with a random pose; mark what it covers. Returns its area in pixels, unclipped."""
    angle = float(rng.uniform(-settings.angle, settings.angle)) * float(rng.random() < 0.7)
    stretch = (1.0, 1.0)
    shear = 0.0
    if settings.augment and rng.random() < 0.5:
        wide, tall = rng.uniform(0.78, 1.0, 2)
        stretch, shear = (float(wide), float(tall)), float(rng.uniform(-0.15, 0.15))
    rows, columns, alpha = paste(
        canvas, image, x, y, scale, angle, bool(rng.random() < 0.5), stretch, shear
    )
    region = owners[rows, columns]
    region[alpha > 127] = place
    covered = np.count_nonzero(image[..., 3] > 127) / image.shape[0] ** 2
    return int(covered * (scale * settings.size) ** 2 * stretch[0] * stretch[1])


def _patch_labels(owners: NDArray[np.int8], patch: int, count: int) -> NDArray[np.int8]:
    """What each patch shows: an object that covers a third of it, nothing, or it is unclear."""
    grid = owners.shape[0] // patch
    sums = np.repeat(np.eye(grid, dtype=np.float32), patch, axis=1)
    masks = (owners == np.arange(count)[:, None, None]).astype(np.float32)
    shares = (sums @ masks @ sums.T).astype(np.float64) / patch**2
    best = shares.argmax(axis=0)
    most, total = shares.max(axis=0), shares.sum(axis=0)
    labels = np.full((grid, grid), AMBIGUOUS, np.int8)
    clear = (most >= 1 / 3) & (most >= 0.75 * total)
    labels[clear] = best[clear]
    labels[total <= 0.05] = NOTHING
    return labels


def _filled(image: Image, silhouette: Image, colour: str) -> Image:
    """A line drawing over its silhouette in a colour."""
    size = image.shape[0]
    inside = cv2.resize(silhouette, (size, size), interpolation=cv2.INTER_AREA)
    line = image[..., 3:].astype(np.float32) / 255
    lines = np.array((15, 15, 20) if colour != "black" else (120, 120, 125))
    out = np.empty_like(image)
    out[..., :3] = lines * line + np.array(COLOURS[colour]) * (1 - line)
    out[..., 3] = np.maximum(inside, image[..., 3])
    return out


def _jitter(rng: Generator, image: Image, *, shift_hue: bool) -> Image:
    """Vary colour: hue a little or at will, saturation, brightness, contrast, number of shades."""
    hsv = cv2.cvtColor(image[..., :3], cv2.COLOR_RGB2HSV)
    shift = rng.integers(0, 180) if shift_hue else rng.integers(-3, 4)
    lut = np.empty((1, 256, 3), np.uint8)
    lut[0, :, 0] = (_LEVELS + shift) % 180
    lut[0, :, 1] = np.minimum(_LEVELS * rng.uniform(0.75, 1.25), 255)
    values = (_LEVELS - 128) * rng.uniform(0.8, 1.15) + 128 + rng.integers(-20, 21)
    if rng.random() < 0.12:
        step = int(rng.integers(32, 86))
        values = np.trunc(values) // step * step + step // 2
    lut[0, :, 2] = values.clip(0, 255)
    out = image.copy()
    out[..., :3] = cv2.cvtColor(cv2.LUT(hsv, lut), cv2.COLOR_HSV2RGB)
    if shift_hue and rng.random() < 0.2:
        out[..., :3] = cv2.cvtColor(out[..., :3], cv2.COLOR_RGB2GRAY)[..., None]
    return out


def _repainted(rng: Generator, image: Image, parts: Image) -> Image:
    """Give parts of one colour another: one rocket is white with red fins, the next blue.

    A part keeps its shades, or becomes flat; what two parts have in common may have a dark line.
    An image of one part stays as it is: its colour may be what it is known by.
    """
    count = int(parts.max()) + 1
    if count == 1:
        return image
    pixels, labels = image[..., :3], parts.ravel()
    flat = rng.random() < 0.5
    chosen = rng.random(count) < rng.uniform(0.3, 1.0)
    colours = rng.integers(0, 256, (count, 3))
    sizes = np.maximum(np.bincount(labels, minlength=count), 1)
    sums = [np.bincount(labels, pixels[..., c].ravel(), count) for c in range(3)]
    middles = np.stack(sums, axis=1) / sizes[:, None]
    aims = np.where(chosen[:, None], colours, middles)
    painted = aims[parts] if flat else aims[parts] + (pixels - middles[parts])
    out = image.copy()
    out[..., :3] = painted.clip(0, 255)
    if rng.random() < 0.25:
        lines = cv2.morphologyEx(parts, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
        out[lines, :3] = 20
    return out


def _bent(rng: Generator, image: Image) -> Image:
    """Move what is where a little, smoothly: another artist's proportions."""
    side = image.shape[0]
    moves = rng.uniform(-0.09, 0.09, (4, 4, 2)).astype(np.float32) * side
    field = np.asarray(cv2.resize(moves, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)
    ramp = np.arange(side, dtype=np.float32)
    return np.asarray(
        cv2.remap(
            image,
            ramp[None, :] + field[..., 0],
            ramp[:, None] + field[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
        ),
        np.uint8,
    )


def _outlined(rng: Generator, image: Image) -> Image:
    """Put a dark or a white line around what is visible."""
    width = int(rng.integers(1, 2 + image.shape[0] // 24))
    grown = cv2.dilate(image[..., 3], np.ones((2 * width + 1, 2 * width + 1), np.uint8))
    shade = 20 if rng.random() < 0.7 else 250
    alpha = image[..., 3:].astype(np.uint16)
    out = np.empty_like(image)
    out[..., :3] = (image[..., :3] * alpha + shade * (255 - alpha)) // 255
    out[..., 3] = grown
    return out


def _finish(rng: Generator, canvas: Image) -> Image:
    """What a camera adds: blur, grain, another exposure."""
    kind = rng.random()
    if kind < 0.1:
        canvas = np.asarray(cv2.GaussianBlur(canvas, (3, 3), 0), np.uint8)
    elif kind < 0.25:
        grain = rng.standard_normal(canvas.shape, np.float32) * rng.uniform(3, 14)
        canvas = np.clip(canvas + grain, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        gain, offset = float(rng.uniform(0.8, 1.15)), int(rng.integers(-15, 16))
        lit = cv2.convertScaleAbs(canvas, alpha=gain, beta=max(offset, 0))
        canvas = np.asarray(lit, np.uint8)
    return canvas
