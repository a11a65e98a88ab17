"""Single frames of a video at given times, upright and scaled, as images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from r2rt.media.indexed_video import FrameReader, IndexedVideo, Span
from r2rt.progress import Update

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from PIL import Image

__all__ = ["fitted_size", "stills"]


def stills(
    video: IndexedVideo,
    times_s: Sequence[float],
    box: tuple[int, int],
    *,
    near_s: float = 0.0,
    update: Update | None = None,
) -> Iterator[tuple[int, Image.Image]]:
    """Yield the frame on display at each time, with the time's number, as soon as it is decoded.

    They come in the order of the video, and at the end those that cannot be decoded.

    Args:
        video: the video.
        times_s: times on the source's clock, in any order.
        box: width and height to fit images into, in pixels, keeping their shape.
        near_s: take a keyframe at most this far away instead, which costs less to decode.
        update: called with frames done and their total.

    Yields:
        A number for each of the times, and an RGB image; grey where none can be decoded.
    """
    from PIL import Image

    size = fitted_size(video.geometry.display_size, box)
    needed: dict[int, list[int]] = {}
    for number, time_s in enumerate(times_s):
        needed.setdefault(video.shown_at(_cheapest(video, time_s, near_s)), []).append(number)
    left = dict(needed)
    scaler = VideoReformatter()
    with FrameReader(video) as reader:
        for group in _groups(video, sorted(needed)):
            for frame, pts in reader.frames(Span(group[0], group[-1] + 1), needed):
                numbers = left.pop(pts, None)
                if numbers is None:
                    continue
                if update is not None:
                    update(len(needed) - len(left), len(needed))
                image = _image(video, frame, size, scaler)
                yield from ((number, image) for number in numbers)
    grey = Image.new("RGB", size, "#808080")
    yield from ((number, grey) for numbers in left.values() for number in numbers)


def fitted_size(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """Return the largest width and height of the same shape that fit into a box, at least 1."""
    scale = min(box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _groups(video: IndexedVideo, pts: Sequence[int]) -> list[list[int]]:
    """Group times that are decoded from the same keyframe, so that it is decoded once."""
    if video.index.unusable is not None:
        return [list(pts)] if pts else []
    keys = np.sort(video.index.pts[video.entries])
    groups: dict[int, list[int]] = {}
    for value in pts:
        groups.setdefault(int(np.searchsorted(keys, value, side="right")), []).append(value)
    return list(groups.values())


def _cheapest(video: IndexedVideo, time_s: float, near_s: float) -> int:
    """Return the time of a keyframe that is near enough, else the time itself."""
    pts = video.ticks(time_s)
    if not near_s or not len(video.entries):
        return pts
    keys = video.index.pts[video.entries]
    nearest = int(keys[np.argmin(np.abs(keys - pts))])
    return nearest if abs(nearest - pts) * video.time_base <= near_s else pts


def _image(
    video: IndexedVideo, frame: VideoFrame, size: tuple[int, int], scaler: VideoReformatter
) -> Image.Image:
    from PIL import Image

    turn = video.geometry.turn
    width, height = size[::-1] if turn.transpose else size
    # Area averages: shrunk by much, a cubic would skip most of the pixels and flicker.
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
