"""The frame size of an exported movie, and how frames of other sizes are fitted into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.filter
from av.video.reformatter import ColorRange, Colorspace

from r2rt.media.indexed_video import Geometry

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

__all__ = ["Canvas", "Fitter", "common_canvas"]

_KEPT_FORMATS = frozenset(("yuv420p", "yuvj420p"))
# Range (limited), matrix, primaries and transfer of BT.709, by FFmpeg's numbers.
_BT709_TAGS = (1, 1, 1, 1)
_GBR = 0  # AVCOL_SPC_RGB
_UNSPECIFIED = 2


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Size, shape and rotation of a movie's frames.

    Attributes:
        width: in samples, even, as H.264 for every player needs it.
        height: in samples, even.
        sample_aspect_ratio: width of a sample over its height.
        matrix: the display matrix that players turn it by; None for none.
        mixed: whether frames of several kinds are fitted in, upright, with square samples.
    """

    width: int
    height: int
    sample_aspect_ratio: Fraction
    matrix: tuple[int, ...] | None
    mixed: bool


def common_canvas(geometries: Sequence[Geometry]) -> Canvas:
    """Return the canvas that fits all videos.

    Videos of one geometry keep it. Others are fitted into the largest, upright, with square
    samples.
    One row or column is added to an odd height or width.
    """
    first = geometries[0]
    can_turn = hasattr(av.VideoStream, "set_display_matrix")
    if len(set(geometries)) == 1 and (first.matrix is None or can_turn):
        return Canvas(
            width=_even(first.width),
            height=_even(first.height),
            sample_aspect_ratio=first.sample_aspect_ratio,
            matrix=first.matrix,
            mixed=False,
        )
    sizes = [geometry.display_size for geometry in geometries]
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return Canvas(
        width=_even(width),
        height=_even(height),
        sample_aspect_ratio=Fraction(1),
        matrix=None,
        mixed=True,
    )


class Fitter:
    """Fits the frames of one video into a canvas, as 4:2:0 in 8 bits, which all players show."""

    def __init__(self, canvas: Canvas, geometry: Geometry) -> None:
        self._canvas = canvas
        self._geometry = geometry
        self._key: tuple[int, int, str] | None = None
        self._graph: Any = None

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """Return the frame fitted in; the same object where nothing is to be done."""
        canvas = self._canvas
        same_size = (frame.width, frame.height) == (canvas.width, canvas.height)
        if not canvas.mixed and same_size and frame.format.name in _KEPT_FORMATS:
            return frame
        if canvas.mixed:
            fitted = self._filtered(frame)
            _tag(fitted, _BT709_TAGS)
            return fitted
        tags = _BT709_TAGS if _is_rgb(frame) else _tags(frame)
        fitted = _as_420(frame)
        if (fitted.width, fitted.height) != (canvas.width, canvas.height):
            fitted = self._filtered(fitted)
        _tag(fitted, tags)
        return fitted

    def _filtered(self, frame: VideoFrame) -> VideoFrame:
        key = frame.width, frame.height, frame.format.name
        if key != self._key:
            self._key, self._graph = key, self._build(frame)
        # The graph takes frames one by one; times are set by the caller afterwards.
        frame.pts = None
        self._graph.vpush(frame)
        filtered: VideoFrame = self._graph.vpull()
        return filtered

    def _build(self, frame: VideoFrame) -> Any:
        graph = av.filter.Graph()
        nodes = [
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=Fraction(1, 90_000),
            )
        ]
        nodes += [graph.add(name, arguments) for name, arguments in self._steps(frame)]
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph

    def _steps(self, frame: VideoFrame) -> list[tuple[str, str]]:
        canvas, turn = self._canvas, self._geometry.turn
        steps: list[tuple[str, str]] = []
        right, below = canvas.width - frame.width, canvas.height - frame.height
        if not canvas.mixed and right in {0, 1} and below in {0, 1}:
            return [
                ("pad", f"{canvas.width}:{canvas.height}:0:0"),
                ("fillborders", f"right={right}:bottom={below}:mode=smear"),
            ]
        # Mixed videos, or one whose size changes on the way.
        if canvas.mixed and turn.transpose:
            steps.append(("transpose", "cclock_flip"))
        if canvas.mixed and turn.mirror_x:
            steps.append(("hflip", ""))
        if canvas.mixed and turn.mirror_y:
            steps.append(("vflip", ""))
        width, height = self._fitted_size(frame)
        colors = ":out_color_matrix=bt709:out_range=tv" if canvas.mixed else ""
        steps.append(("scale", f"{width}:{height}:flags=bicubic{colors}"))
        steps.append(("format", f"pix_fmts={'yuv420p' if canvas.mixed else frame.format.name}"))
        left, top = (canvas.width - width) // 4 * 2, (canvas.height - height) // 4 * 2
        steps.append(("pad", f"{canvas.width}:{canvas.height}:{left}:{top}"))
        return steps

    def _fitted_size(self, frame: VideoFrame) -> tuple[int, int]:
        """Return the largest even size that fits into the canvas without distortion."""
        canvas, geometry = self._canvas, self._geometry
        shape = Geometry(
            width=frame.width,
            height=frame.height,
            sample_aspect_ratio=geometry.sample_aspect_ratio,
            matrix=None,
            turn=geometry.turn,
        )
        width, height = shape.display_size if canvas.mixed else (frame.width, frame.height)
        scale = min(Fraction(canvas.width, width), Fraction(canvas.height, height))
        return (
            min(canvas.width, _even(int(width * scale))),
            min(canvas.height, _even(int(height * scale))),
        )


def _as_420(frame: VideoFrame) -> VideoFrame:
    if frame.format.name in _KEPT_FORMATS:
        return frame
    if _is_rgb(frame):
        return frame.reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
    full = int(frame.color_range) == int(ColorRange.JPEG)
    return frame.reformat(format="yuvj420p" if full else "yuv420p")


def _tags(frame: VideoFrame) -> tuple[int, int, int, int]:
    return (
        int(frame.color_range),
        int(frame.colorspace),
        # PyAV 16 cannot read these; the movie's stay unspecified.
        int(getattr(frame, "color_primaries", _UNSPECIFIED)),
        int(getattr(frame, "color_trc", _UNSPECIFIED)),
    )


def _tag(frame: VideoFrame, tags: tuple[int, int, int, int]) -> None:
    frame.color_range, frame.colorspace, primaries, transfer = tags
    if hasattr(frame, "color_primaries"):
        frame.color_primaries, frame.color_trc = primaries, transfer


def _is_rgb(frame: VideoFrame) -> bool:
    return bool(frame.format.is_rgb) or int(frame.colorspace) == _GBR


def _even(length: int) -> int:
    return length + length % 2
