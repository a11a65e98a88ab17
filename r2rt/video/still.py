"""Sources whose frames can be read one by one: a folder of images, an array."""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from r2rt.errors import NoFramesError, NotAVideoError, SourceNotFoundError
from r2rt.video.api import ClipFrame, DecodeReport, SourceInfo
from r2rt.video.clock import ClipClock, select_offline
from r2rt.video.container import open_input
from r2rt.video.departures import Departures
from r2rt.video.fingerprint import fingerprint_array, fingerprint_files
from r2rt.video.part import Part
from r2rt.video.pixels import FramePreparer, display_size, prepare_frame
from r2rt.video.plan import PlanCost

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

__all__ = ["IMAGE_SUFFIXES", "ArraySource", "ImageFolder", "natural_key", "read_image"]

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp"))


class _StillSource(ABC):
    """A `FrameSource` of frames at a constant rate, each readable without the others."""

    def __init__(
        self, length: int, *, rate: Fraction, fps: Fraction, image_size: int, part: Part
    ) -> None:
        self._fps = fps
        self._image_size = image_size
        span = part.span(fps=fps, time_base=1 / rate, source_start_pts=0)
        first = 0 if span.begin_pts is None else span.begin_pts
        stop = span.stop_pts(length)
        if first >= stop:
            raise NoFramesError(
                f"{self._name}: no frame in the requested part; "
                f"{length} frames last {float(length / rate):.3f} s"
            )
        self._clock: ClipClock = span.clock
        self._start_s = float(first / rate)
        ticks = self._clock.ticks(np.arange(first, stop, dtype=np.int64))
        places = select_offline(ticks, self._clock.num_clips(stop)) + first
        self._stop = stop
        self._chosen, self._clip_index, self._count = np.unique(
            places, return_index=True, return_counts=True
        )
        self._rate = rate
        self._length = length
        self._num_clips = len(places)
        self._read = self._lost = self._clips = 0

    @property
    def fps(self) -> Fraction:
        """Clips a second."""
        return self._fps

    @property
    def num_clips(self) -> int:
        """Number of clips."""
        return self._num_clips

    @property
    def cost(self) -> PlanCost | None:
        """How many of the frames are read."""
        return PlanCost(planned_frames=len(self._chosen), total_frames=self._length, skipped_gops=0)

    @property
    def info(self) -> SourceInfo:
        """The source's name, size, length and other facts."""
        return self._info

    @property
    def report(self) -> DecodeReport:
        """What the last iteration has read so far."""
        return DecodeReport(
            clips=self._clips,
            frames_decoded=self._read - self._lost,
            packets=self._length,
            packets_decoded=self._read,
            sampling="exact",
            cost=self.cost,
            departures=Departures(packets_lost=self._lost, frames_replaced=self._lost),
        )

    def __iter__(self) -> Iterator[ClipFrame]:
        """Yield the frames of all clips in order.

        Raises:
            NoFramesError: no frame can be read.
        """
        self._read = self._lost = self._clips = 0
        shown: NDArray[np.uint8] | None = None
        unshown = 0
        for place, first, count in zip(
            self._chosen.tolist(), self._clip_index.tolist(), self._count.tolist(), strict=True
        ):
            self._read += 1
            pixels = self._pixels(place)
            self._lost += pixels is None
            shown = shown if pixels is None else pixels
            if shown is None:
                # Nothing to show yet: the first readable frame is used for these clips, too.
                unshown += count
                continue
            self._clips = first + count
            yield ClipFrame(
                clip_index=first - unshown,
                count=count + unshown,
                time_s=self._clock.time_s(place),
                pixels=shown,
            )
            unshown = 0
        if shown is None:
            raise NoFramesError(f"{self._name}: none of the {self._length} frames can be read")

    def close(self) -> None:
        """Do nothing: nothing is held open."""
        return

    def __enter__(self) -> _StillSource:
        """Return the source."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: nothing is held open."""
        return

    _name: str
    _info: SourceInfo

    @abstractmethod
    def _pixels(self, place: int) -> NDArray[np.uint8] | None:
        """Return a frame at model size, or None if it cannot be read."""

    def _make_info(
        self,
        kind: Literal["images", "array"],
        size: tuple[int, int],
        codec: str | None,
        fingerprint: str,
    ) -> SourceInfo:
        return SourceInfo(
            name=self._name,
            kind=kind,
            duration_s=self._clock.time_s(self._stop),
            start_s=self._start_s,
            width=size[0],
            height=size[1],
            frame_rate=self._rate,
            codec=codec,
            fingerprint=fingerprint,
        )


class ArraySource(_StillSource):
    """An array (T, H, W, 3) uint8 RGB as a source; it is not copied."""

    def __init__(
        self,
        array: NDArray[np.uint8],
        *,
        rate: Fraction,
        fps: Fraction,
        image_size: int,
        part: Part,
    ) -> None:
        self._name = "<array>"
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
            raise NotAVideoError(
                f"an array of shape {array.shape} and type {array.dtype}; "
                "expected (T, height, width, 3) uint8 RGB"
            )
        if not array.size:
            raise NoFramesError(f"an array of shape {array.shape} holds no frame")
        self._array = array
        self._prepare = FramePreparer(image_size)
        super().__init__(len(array), rate=rate, fps=fps, image_size=image_size, part=part)
        size = (array.shape[2], array.shape[1])
        self._info = self._make_info("array", size, None, fingerprint_array(array))

    def _pixels(self, place: int) -> NDArray[np.uint8] | None:
        return self._prepare(self._array[place])


class ImageFolder(_StillSource):
    """The images of a folder in natural order (2.png before 10.png) as a source.

    An image that cannot be read is replaced by the one before it, or after it at the beginning.
    """

    def __init__(
        self, folder: Path, *, rate: Fraction, fps: Fraction, image_size: int, part: Part
    ) -> None:
        self._name = str(folder)
        self._paths = _images(folder)
        if not self._paths:
            raise SourceNotFoundError(
                f"{folder}: a folder without images; expected {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        super().__init__(len(self._paths), rate=rate, fps=fps, image_size=image_size, part=part)
        first = next((image for image in map(_read_image, self._paths) if image), None)
        if first is None:
            raise NoFramesError(f"{folder}: none of the {len(self._paths)} images can be read")
        self._info = self._make_info(
            "images", display_size(first), None, fingerprint_files(self._paths)
        )

    def _pixels(self, place: int) -> NDArray[np.uint8] | None:
        image = _read_image(self._paths[place])
        # Images can differ in orientation, so no preparer is kept from one to the next.
        return None if image is None else prepare_frame(image, self._image_size)


def _images(folder: Path) -> list[Path]:
    try:
        return sorted(
            (
                path
                for path in folder.iterdir()
                if path.suffix.lower() in IMAGE_SUFFIXES
                and not path.name.startswith(".")
                and path.is_file()
            ),
            key=lambda path: natural_key(path.name),
        )
    except OSError as error:
        raise SourceNotFoundError(f"{folder}: cannot be read: {error.strerror}") from error


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Compare runs of digits as numbers; the name itself settles 1.png and 01.png."""
    runs = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    keyed = [(0, int(run), "") if run[0] in "0123456789" else (1, 0, run) for run in runs]
    return [*keyed, (-1, 0, name)]


def read_image(path: Path) -> VideoFrame:
    """Return the image in a file, or the first frame of a video.

    Raises:
        SourceNotFoundError: there is no such file.
        NotAVideoError: it holds no image that can be read.
    """
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file; name an image")
    image = _read_image(path)
    if image is None:
        raise NotAVideoError(f"{path}: no image that can be read; name a JPEG or PNG file")
    return image


# How files begin whose content is one packet of a codec.
_BEGINNINGS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"\xff\xd8\xff"), "mjpeg"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
)
_ANIMATED = re.compile(rb"\x89PNG.{29}acTL|RIFF.{8}VP8X.{4}[\x02\x03\x06\x07]", re.DOTALL)


def _read_image(path: Path) -> VideoFrame | None:
    try:
        content = path.read_bytes()
        frame = _decode_packet(content)
        if frame is not None:
            return frame
        # A playlist that is called an image opens nothing.
        options = {"protocol_whitelist": "data"}
        with open_input(io.BytesIO(content), container_options=options) as container:
            return next(container.decode(video=0), None)
    except (av.error.FFmpegError, OSError, ValueError, IndexError):
        return None


def _decode_packet(content: bytes) -> VideoFrame | None:
    """Decode a still image as a packet; None where that is not possible.

    Opened as a container, it is decoded twice: once to describe the stream.
    """
    codec = next((name for begins, name in _BEGINNINGS if begins.match(content)), None)
    if codec is None or _ANIMATED.match(content):
        return None
    context: Any = av.CodecContext.create(codec, "r")
    context.thread_count = 1
    try:
        frames = [*context.decode(av.Packet(content)), *context.decode(None)]
    except av.error.FFmpegError:
        return None
    return frames[0] if frames else None
