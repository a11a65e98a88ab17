"""From a decoded frame to the model's input: upright, short side to S, centre crop, RGB.

The definition is that of ffmpeg's filters `scale=W:H:flags=bicubic,crop=S:S,format=rgb24`, run by
libavfilter itself, so that the pixels are those of the ffmpeg program: the stream's own colour
matrix and range (BT.601 where it names none), chroma where `scale` assumes it. In particular:

- Rotation and mirroring come from the display matrix; other angles go to the nearest right angle.
  They are applied after scaling, to the small frame.
- Non-square samples are stretched to square ones in the same pass.
- Interlaced frames are scaled whole, both fields woven, as `scale` does by default.
- An alpha channel is ignored.
- The longer side becomes round(S · long / short), halves up. Half of an odd margin is rounded to
  even, as `crop` does.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.buffer import Buffer
    from av.filter import Graph

__all__ = [
    "FramePreparer",
    "Orientation",
    "display_matrix",
    "display_size",
    "orientation",
    "prepare_frame",
]


def prepare_frame(
    frame: av.VideoFrame | NDArray[np.uint8],
    image_size: int,
    *,
    sample_aspect_ratio: Fraction | None = None,
) -> NDArray[np.uint8]:
    """Return one frame as the model sees it; `FramePreparer` is faster for many.

    Args:
        frame: a decoded frame, or an array (H, W, 3) uint8 RGB.
        image_size: side S of the result, in pixels.
        sample_aspect_ratio: width of a sample over its height; None is square.

    Returns:
        (S, S, 3) uint8 RGB, C-contiguous.

    Raises:
        ValueError: an array of another shape or type.
    """
    return FramePreparer(image_size)(frame, sample_aspect_ratio=sample_aspect_ratio)


class FramePreparer:
    """`prepare_frame` for the many frames of one stream; not for several threads at once.

    The filter graph is kept between calls, and so is the orientation: the display matrix is read
    again only where size, pixel format or angle of the frames change.
    """

    def __init__(self, image_size: int) -> None:
        if image_size < 1:
            raise ValueError(f"image_size {image_size}; expected at least 1 pixel")
        self._size = image_size
        self._scaler: _Scaler | None = None
        self._layout: tuple[int, int, str, int] | None = None
        self._turn = _UPRIGHT

    def __call__(
        self,
        frame: av.VideoFrame | NDArray[np.uint8],
        *,
        sample_aspect_ratio: Fraction | None = None,
        turn: Orientation | None = None,
    ) -> NDArray[np.uint8]:
        """Return (S, S, 3) uint8 RGB, C-contiguous; see `prepare_frame`.

        Args:
            frame: as there.
            sample_aspect_ratio: as there.
            turn: what makes the frame upright; None takes its display matrix.
        """
        if isinstance(frame, np.ndarray):
            decoded, turn = _as_frame(frame), turn or _UPRIGHT
        else:
            decoded, turn = frame, turn or self._orientation(frame)
        width, height = _square_samples(decoded.width, decoded.height, sample_aspect_ratio)
        scaled_width, scaled_height = _scaled_size(width, height, self._size)
        wanted = (decoded.width, decoded.height, decoded.format.name, scaled_width, scaled_height)
        if self._scaler is None or self._scaler.wanted != wanted:
            self._scaler = _Scaler(wanted)
        scaled = self._scaler(decoded)
        plane = scaled.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(scaled_height, plane.line_size)
        pixels = rows[:, : 3 * scaled_width].reshape(scaled_height, scaled_width, 3)
        upright = turn.apply(pixels)
        # Half a pixel is rounded to even, as by ffmpeg's `crop` and torchvision's `CenterCrop`.
        top, left = (round((side - self._size) / 2) for side in upright.shape[:2])
        # A copy always, so that the result never shares memory with the decoder's frame.
        cropped = upright[top : top + self._size, left : left + self._size]
        return np.array(cropped, order="C", copy=True)

    def _orientation(self, frame: av.VideoFrame) -> Orientation:
        # PyAV puts a frame whose side data is read into a reference cycle, so each read keeps a
        # whole decoded frame in memory until the garbage collector runs.
        layout = (frame.width, frame.height, frame.format.name, frame.rotation)
        if layout != self._layout:
            self._layout, self._turn = layout, orientation(frame)
        return self._turn


class _Scaler:
    """libavfilter's `scale` to RGB, for frames of one size and pixel format.

    Args:
        wanted: width, height and pixel format of the frames, width and height of the result.
    """

    def __init__(self, wanted: tuple[int, int, str, int, int]) -> None:
        self.wanted = wanted
        width, height, pix_fmt, scaled_width, scaled_height = wanted
        self._graph: Graph = av.filter.Graph()
        if hasattr(self._graph, "threads"):  # since PyAV 17.1
            self._graph.threads = 1
        source = self._graph.add_buffer(
            width=width,
            height=height,
            format=av.VideoFormat(pix_fmt),
            time_base=Fraction(1, 1000),
        )
        scale = self._graph.add("scale", f"{scaled_width}:{scaled_height}:flags=bicubic")
        to_rgb = self._graph.add("format", "rgb24")
        self._graph.link_nodes(source, scale, to_rgb, self._graph.add("buffersink")).configure()

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        self._graph.vpush(frame)
        return self._graph.vpull()


def display_size(
    frame: av.VideoFrame, sample_aspect_ratio: Fraction | None = None
) -> tuple[int, int]:
    """Return width and height in square pixels of a decoded frame once it is upright."""
    width, height = _square_samples(frame.width, frame.height, sample_aspect_ratio)
    return (height, width) if orientation(frame).transpose else (width, height)


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """How to make a frame's pixels upright: transpose first, then mirror."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return (H, W, C) pixels made upright, as a view."""
        turned = pixels.swapaxes(0, 1) if self.transpose else pixels
        return turned[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


_UPRIGHT = Orientation()


def orientation(frame: av.VideoFrame) -> Orientation:
    """Return the orientation that a frame's display matrix describes.

    The matrix is a b u, c d v, x y w and maps (x, y) to (a·x + c·y, b·x + d·y), with y downwards.
    Its scale does not matter here.
    """
    matrix = display_matrix(frame)
    if matrix is None:
        return _UPRIGHT
    a, b, c, d = (matrix[position] for position in (0, 1, 3, 4))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(mirror_x=a < 0, mirror_y=d < 0)
    return Orientation(transpose=True, mirror_x=c < 0, mirror_y=b < 0)


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Return the nine numbers of a frame's display matrix; None where it has none."""
    _accept_unknown_side_data()
    # PyAV's types differ by version from each other, and from what it gives.
    side_data: Mapping[Any, Buffer] = cast("Any", frame.side_data)
    data = side_data.get("DISPLAYMATRIX")
    if data is None or data.buffer_size < 36:
        return None
    return tuple(np.frombuffer(memoryview(data), np.int32, count=9).tolist())


@functools.cache
def _accept_unknown_side_data() -> None:
    """Let PyAV list side data whose type its enumeration lacks, such as EXIF.

    It raises ValueError for the whole frame otherwise, and the display matrix could not be read.
    """
    from av.sidedata.sidedata import Type

    def unknown(kind: type[Type], value: object) -> Type:
        member: Any = object.__new__(kind)
        member._name_, member._value_ = f"UNKNOWN_{value}", value
        return cast("Type", member)

    if "_missing_" not in vars(Type):  # PyAV 19 has one of its own
        setattr(Type, "_missing_", classmethod(unknown))  # noqa: B010 - mypy refuses to assign


def _square_samples(width: int, height: int, ratio: Fraction | None) -> tuple[int, int]:
    """Return the size with square samples, stretching and never shrinking a side."""
    if not ratio or ratio <= 0 or ratio == 1:
        return width, height
    if ratio > 1:
        return _round(width * ratio), height
    return width, _round(height / ratio)


def _scaled_size(width: int, height: int, size: int) -> tuple[int, int]:
    if width >= height:
        return _round(Fraction(size * width, height)), size
    return size, _round(Fraction(size * height, width))


def _round(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def _as_frame(pixels: NDArray[np.uint8]) -> av.VideoFrame:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(
            f"a frame of shape {pixels.shape} and type {pixels.dtype}; "
            "expected (height, width, 3) uint8 RGB"
        )
    return av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(pixels), format="rgb24")
