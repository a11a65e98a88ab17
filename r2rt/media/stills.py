"""Single pictures of a video at given times, upright and scaled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from r2rt.media.material import Material, PictureReader, Span

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from PIL import Image

__all__ = ["fitted_size", "stills"]

Update = Callable[[int, int | None], None]


def stills(
    material: Material,
    times_s: Sequence[float],
    box: tuple[int, int],
    *,
    near_s: float = 0.0,
    update: Update | None = None,
) -> list[Image.Image]:
    """Return the picture on display at each time.

    Args:
        material: the video.
        times_s: times on the source's clock, in any order.
        box: width and height to fit pictures into, in pixels, keeping their shape.
        near_s: a keyframe this near will do, which spares decoding what comes before.
        update: is told pictures done of all.

    Returns:
        RGB pictures, as many as times; grey where none can be decoded.
    """
    from PIL import Image

    size = fitted_size(material.geometry.display_size, box)
    wanted = [material.shown_at(_cheapest(material, time_s, near_s)) for time_s in times_s]
    found: dict[int, Image.Image] = {}
    needed = set(wanted)
    scaler = VideoReformatter()
    with PictureReader(material) as reader:
        for group in _groups(material, sorted(needed)):
            for frame, pts in reader.pictures(Span(group[0], group[-1] + 1)):
                if pts in needed:
                    found[pts] = _image(material, frame, size, scaler)
                    if update is not None:
                        update(len(found), len(needed))
    grey = Image.new("RGB", size, "#808080")
    return [found.get(pts, grey) for pts in wanted]


def fitted_size(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """Return the largest width and height of the same shape that fit into a box, at least 1."""
    scale = min(box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _groups(material: Material, pts: Sequence[int]) -> list[list[int]]:
    """Return times put together that are decoded from one keyframe, so that it is done once."""
    if material.index.unusable is not None:
        return [list(pts)] if pts else []
    keys = np.sort(material.index.pts[material.entries])
    groups: dict[int, list[int]] = {}
    for value in pts:
        groups.setdefault(int(np.searchsorted(keys, value, side="right")), []).append(value)
    return list(groups.values())


def _cheapest(material: Material, time_s: float, near_s: float) -> int:
    """Return the time of a keyframe that is near enough, else the time itself."""
    pts = material.ticks(time_s)
    if not near_s or not len(material.entries):
        return pts
    keys = material.index.pts[material.entries]
    nearest = int(keys[np.argmin(np.abs(keys - pts))])
    return nearest if abs(nearest - pts) * material.time_base <= near_s else pts


def _image(
    material: Material, frame: VideoFrame, size: tuple[int, int], scaler: VideoReformatter
) -> Image.Image:
    from PIL import Image

    turn = material.geometry.turn
    width, height = size[::-1] if turn.transpose else size
    # Area averages: shrunk by much, a cubic would leave out most of the picture and flicker.
    smaller = width < frame.width / 2
    scaled = scaler.reformat(
        frame,
        width=width,
        height=height,
        format="rgb24",
        interpolation=Interpolation.AREA if smaller else Interpolation.BICUBIC,
    )
    pixels = np.asarray(scaled.to_ndarray(), np.uint8)
    return Image.fromarray(np.ascontiguousarray(turn.apply(pixels)))
