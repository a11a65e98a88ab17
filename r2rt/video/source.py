"""Opening a source: a video file, a folder of images, or an array."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import QueryError, SourceNotFoundError
from r2rt.video.api import FrameSource, Sampling
from r2rt.video.decoders import Decoder
from r2rt.video.file import VideoFile
from r2rt.video.missing import not_found
from r2rt.video.part import Part
from r2rt.video.remote import VideoPath, video_path
from r2rt.video.still import ArraySource, ImageFolder

__all__ = ["open_source"]

# Images a second: of slower ones the clips alone would fill the memory.
_LEAST_RATE = 1e-6


def open_source(
    source: str | os.PathLike[str] | NDArray[np.uint8],
    *,
    fps: Fraction,
    image_size: int,
    sampling: Sampling = "exact",
    tolerance_s: float | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    source_fps: Fraction | float | None = None,
    threads: int | None = None,
    decoder: Decoder = "cpu",
    video_track: int | None = None,
) -> FrameSource:
    """Open a source that yields one frame a clip, in bounded memory.

    Args:
        source: a video file, an address or `RemoteVideo`; a folder of images (png, jpg, jpeg, webp,
            bmp), read in natural order; or an array (T, H, W, 3) uint8 RGB.
        fps: clips a second.
        image_size: side S of the frames, in pixels.
        sampling: "exact" takes the frame that ffmpeg's `fps` filter takes; "nearest" the frame of
            the same clip that is cheapest to decode. Images and arrays ignore the choice.
        tolerance_s: with "nearest", how far a frame may be from the middle of its clip; half a clip
            at most, which is the default.
        start_s: where the part that is read starts, as if the source were cut there; rounded to its
            time base. The first frame at or after it starts the part.
        end_s: where the part ends, exclusive.
        source_fps: images a second: required for an array; for a folder, one a clip by default.
        threads: decoder threads; None takes one a core.
        decoder: what decodes a video; `auto` measures, see `r2rt.video.hardware`. The report says
            what decoded.
        video_track: which video track of a file to read, from 1; None takes the default one.

    Raises:
        SourceNotFoundError: there is no such file or folder, it cannot be read, or a folder holds
            no images.
        NotAVideoError: no demuxer or decoder reads the file.
        NoVideoStreamError: a media file without a video stream.
        NoFramesError: no frame of the requested part can be decoded.
        QueryError: an argument that cannot be used.
    """
    fps = Fraction(fps)
    _check(fps, image_size, sampling, tolerance_s, threads)
    part = Part.from_seconds(start_s, end_s)
    path = None if isinstance(source, np.ndarray) else video_path(source)
    is_folder = path is not None and _is_folder(path)
    if video_track is not None and (path is None or is_folder):
        raise QueryError("a video track is for video files; images and arrays have none")
    if isinstance(source, np.ndarray):
        if source_fps is None:
            raise QueryError("an array of frames needs source_fps, its frames a second")
        rate = _rate(source_fps)
        return ArraySource(source, rate=rate, fps=fps, image_size=image_size, part=part)
    assert path is not None
    if isinstance(path, Path) and is_folder:
        rate = fps if source_fps is None else _rate(source_fps)
        return ImageFolder(path, rate=rate, fps=fps, image_size=image_size, part=part)
    if source_fps is not None:
        raise QueryError(f"{path}: source_fps is for images and arrays; a video has its own rate")
    if isinstance(path, Path) and not path.exists():
        raise not_found(path)
    return VideoFile(
        path,
        fps=fps,
        image_size=image_size,
        sampling=sampling,
        tolerance_s=None if tolerance_s is None else Fraction(tolerance_s),
        part=part,
        threads=threads,
        decoder=decoder,
        video_track=video_track,
    )


def _is_folder(path: VideoPath) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a name that is too long, or a folder that may not be entered
        raise SourceNotFoundError(f"{path}: cannot be read: {error.strerror}") from error


def _check(
    fps: Fraction, image_size: int, sampling: str, tolerance_s: float | None, threads: int | None
) -> None:
    if fps <= 0:
        raise QueryError(f"fps {fps}; expected a positive number of clips a second")
    if image_size < 1:
        raise QueryError(f"image_size {image_size}; expected at least 1 pixel")
    if sampling not in {"exact", "nearest"}:
        raise QueryError(f"sampling {sampling!r}; expected 'exact' or 'nearest'")
    if threads is not None and threads < 1:
        raise QueryError(f"threads {threads}; expected at least 1")
    if tolerance_s is None:
        return
    half = 1 / (2 * fps)
    if sampling == "exact":
        raise QueryError("a tolerance is for sampling 'nearest'; leave it out or choose that")
    if not math.isfinite(tolerance_s) or not 0 <= tolerance_s <= half:
        raise QueryError(
            f"tolerance {tolerance_s} s; expected 0 to half a clip, {float(half):g} s at {fps} fps"
        )


def _rate(source_fps: Fraction | float) -> Fraction:
    """Return a rate as a fraction; a float such as 23.976 becomes the simple one it means."""
    if not source_fps > 0 or source_fps == math.inf:
        raise QueryError(f"source_fps {source_fps}; expected a positive number")
    if source_fps < _LEAST_RATE:
        raise QueryError(f"source_fps {source_fps}; expected at least {_LEAST_RATE:g}")
    if isinstance(source_fps, Fraction):
        return source_fps
    rate = Fraction(source_fps)
    # Of less than one image a second the seconds of an image are the simple number.
    return rate.limit_denominator(1001) if rate >= 1 else 1 / (1 / rate).limit_denominator(1001)
