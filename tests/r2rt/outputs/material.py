"""Small videos of given rates, answers about them, and how these are written."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from r2rt.cli.outputs import OutputOptions
from r2rt.outputs import FORMATS, Answers
from tests.r2rt.media.footage import prediction

FILM = Fraction(24000, 1001)
NTSC = Fraction(30000, 1001)
NTSC_60 = Fraction(60000, 1001)
PAL_50 = Fraction(50)
RATES = (FILM, NTSC, PAL_50, NTSC_60, Fraction(25))

# Start, end, score: not on whole pictures of any rate; overlapping, and out of order.
MOMENTS = ((2.34, 5.67, 0.91), (0.0, 1.01, 0.5), (4.2, 6.9, 0.75))
SECONDS = 8


def make_video(
    path: Path,
    rate: Fraction,
    *,
    times: Sequence[Fraction] | None = None,
    timecode: str | None = None,
    sound: bool = False,
    seconds: int = SECONDS,
) -> Path:
    """Write gray pictures at a rate, or at these times in seconds."""
    time_base = 1 / rate if times is None else Fraction(1, 30_000)  # mpeg4 knows none finer
    numbers = range(round(seconds * rate)) if times is None else range(len(times))
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("mpeg4", rate=rate)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = time_base
        if timecode is not None:
            video.metadata["timecode"] = timecode
        audio: Any = container.add_stream("aac", rate=48000) if sound else None
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(
                np.full((48, 64, 3), number % 256, np.uint8), format="rgb24"
            )
            frame.time_base = time_base
            frame.pts = number if times is None else round(times[number] / time_base)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            for block in range(seconds * 48000 // 1024):
                piece = av.AudioFrame.from_ndarray(
                    np.zeros((2, 1024), np.float32), format="fltp", layout="stereo"
                )
                piece.sample_rate, piece.time_base = 48000, Fraction(1, 48000)
                piece.pts = 1024 * block
                container.mux(audio.encode(piece))
            container.mux(audio.encode(None))
    return path


def answers_about(
    video: Path | str,
    *queries: tuple[str, Sequence[tuple[float, float, float]]],
    seconds: float = SECONDS,
    **fields: Any,
) -> Answers:
    """Answers to each query with these moments, best first."""
    asked = queries or (('a dog, "quoted" & <running>', MOMENTS),)
    return Answers(
        video=str(video),
        predictions=tuple(
            prediction(
                *sorted(moments, key=lambda moment: -moment[2]),
                query=text,
                video=str(video),
                duration_s=seconds,
            )
            for text, moments in asked
        ),
        qids=tuple(range(1, len(asked) + 1)),
        **fields,
    )


def variable_times(seconds: int = SECONDS) -> list[Fraction]:
    """Times of a phone's pictures: about 30 a second, each a little early or late, some missing."""
    rng = np.random.default_rng(3)
    return [
        Fraction(number, 30) + Fraction(int(rng.integers(-400, 400)), 90_000) + Fraction(1, 100)
        for number in range(30 * seconds)
        if number % 37 != 5
    ]


def output_options(name: str, folder: Path | None = None) -> OutputOptions:
    """Return the options of one format without any other choice, to stdout or into a folder."""
    return OutputOptions(
        formats=(FORMATS[name],),
        output=None,
        folder=folder,
        skip_existing=False,
        rank=False,
        rows=20,
        csv_raw=False,
        frame_rate=None,
        drop_frame=None,
    )
