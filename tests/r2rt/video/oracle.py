"""The oracles: which frames, and which pixels, the ffmpeg program or libavfilter gives."""

from __future__ import annotations

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="the oracle is the ffmpeg program, not installed here"
)

# A second output of ffmpeg's, to nothing. Without it the sound is not read, and the zero of a
# transport stream is the start of its video, even where the sound begins first.
ALL_STREAMS = ("-map", "0:v", "-map", "0:a?", "-c", "copy", "-f", "null", "-")


def scale_and_crop(
    width: int, height: int, image_size: int, ratio: Fraction | None = None
) -> list[tuple[str, str]]:
    """Return ffmpeg's filters that make a model-size RGB frame of one of width x height samples."""
    ratio = ratio or Fraction(1)
    wide = Fraction(_round(width * ratio if ratio > 1 else Fraction(width)))
    high = Fraction(_round(height / ratio if ratio < 1 else Fraction(height)))
    scaled = (
        (_round(image_size * wide / high), image_size)
        if wide >= high
        else (image_size, _round(image_size * high / wide))
    )
    return [
        ("scale", f"{scaled[0]}:{scaled[1]}:flags=bicubic"),
        ("format", "rgb24"),
        ("crop", f"{image_size}:{image_size}"),
    ]


def ffmpeg_clips(
    path: Path, fps: Fraction, image_size: int = 32, *, stream: int = 0
) -> list[NDArray[np.uint8]]:
    """Return what the ffmpeg program makes of a video: one (S, S, 3) frame a clip.

    Args:
        path: the video.
        fps: clips a second.
        image_size: side S.
        stream: which of its video streams.
    """
    with av.open(str(path)) as container:
        video = container.streams.video[stream]
        chain = scale_and_crop(video.width, video.height, image_size, video.sample_aspect_ratio)
    filters = [f"fps=fps={fps}:round=near:start_time=0", *("=".join(item) for item in chain)]
    command = ["ffmpeg", "-v", "error", "-nostdin", "-noautorotate", "-i", f"file:{path}"]
    command += ["-map", f"0:v:{stream}", "-vf", ",".join(filters)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-", *ALL_STREAMS]
    done = subprocess.run(command, capture_output=True, check=False)
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, image_size, image_size, 3)
    return list(frames)


def ffmpeg_frames(path: Path) -> int:
    """Return how many frames the ffmpeg program decodes, damage passed over."""
    return len(_decoded_frames(path))


def ffmpeg_end_s(path: Path, rate: int) -> Fraction:
    """Return when the last frame ends that the ffmpeg program decodes, at so many frames a second.

    Where frames before it are missing, that is later than their number says.
    """
    _, _, pts, duration, *_ = _decoded_frames(path)[-1].split(b",")
    return Fraction(int(pts) + int(duration), rate)


def _decoded_frames(path: Path) -> list[bytes]:
    """Return ffmpeg's line of each frame: stream, DTS, PTS, duration, size, checksum."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", f"file:{path}", "-map", "0:v:0"]
    command += ["-fps_mode", "passthrough", "-f", "framecrc", "-"]
    lines = subprocess.run(command, capture_output=True, check=False).stdout.splitlines()
    return [line for line in lines if not line.startswith(b"#")]


def _round(value: Fraction) -> int:
    return int(value + Fraction(1, 2))
