"""Videos whose frames show their number and whose sound clicks, and readers of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from r2rt.grounding.prediction import Moment, Prediction, Timings
from tests.r2rt.video.clips import SIZE, numbered_picture, picture_number

SOUND_RATE = 48000
CLICK_S = 0.004
RATES = {
    "23.976": Fraction(24000, 1001),
    "29.97": Fraction(30000, 1001),
    "50": Fraction(50),
}


def vfr_times(frames: int) -> list[Fraction]:
    """Times of pictures 15 to 120 ms apart, with one of them standing for 1.5 s."""
    rng = np.random.default_rng(3)
    gaps = rng.integers(15, 120, frames)
    gaps[frames // 2] = 1500
    return [Fraction(int(value), 1000) for value in np.concatenate([[0], np.cumsum(gaps[:-1])])]


def write_footage(
    path: Path,
    *,
    frames: int = 150,
    rate: Fraction = Fraction(25),
    times: Sequence[Fraction] | None = None,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = SIZE,
    sound: str | None = "aac",
    sound_rate: int = SOUND_RATE,
    layout: str = "stereo",
    sound_late_s: Fraction = Fraction(0),
    start_s: Fraction = Fraction(0),
    matrix: Sequence[int] | None = None,
    sample_aspect_ratio: Fraction | None = None,
    colors: Mapping[str, int] | None = None,
    muxer: str | None = None,
) -> Path:
    """Write numbered pictures, and a click at every whole second of the pictures' clock."""
    time_base = Fraction(1, 90_000) if times is not None else 1 / rate
    if times is None:
        times = [number / rate for number in range(frames)]
    with av.open(str(path), "w", format=muxer) as container:
        video: Any = container.add_stream(
            codec, rate=rate, options=dict(options or {"g": "40", "bf": "2", "crf": "10"})
        )
        video.width, video.height = size
        video.pix_fmt = pix_fmt
        video.codec_context.time_base = time_base
        if sample_aspect_ratio is not None:
            video.codec_context.sample_aspect_ratio = sample_aspect_ratio
        for name, value in (colors or {}).items():
            setattr(video.codec_context, name, value)
        if matrix is not None:
            if not hasattr(video, "set_display_matrix"):
                pytest.skip(f"PyAV {av.__version__} writes no display matrix")
            video.set_display_matrix(matrix)
        audio: Any = None
        if sound is not None:
            audio = container.add_stream(sound, rate=sound_rate)
            audio.codec_context.layout = layout
        for number, time_s in enumerate(times[:frames]):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number, size), format="rgb24")
            frame.time_base = time_base
            frame.pts = round((time_s + start_s) / time_base)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            lasts_s = float(times[frames - 1] + 1 / rate)
            samples = clicks(lasts_s, sound_rate)[round(sound_late_s * sound_rate) :]
            begin = round((start_s + sound_late_s) * sound_rate)
            channels = av.AudioLayout(layout).nb_channels
            for at in range(0, len(samples), 4096):
                block = np.tile(samples[at : at + 4096], (channels, 1))
                piece = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                piece.sample_rate, piece.time_base = sound_rate, Fraction(1, sound_rate)
                piece.pts = begin + at
                container.mux(audio.encode(piece))
            container.mux(audio.encode(None))
    return path


def clicks(lasts_s: float, rate: int) -> NDArray[np.float32]:
    """Samples that are silent but for a burst at every whole second from 1 on."""
    samples = np.zeros(round(lasts_s * rate), np.float32)
    burst = 0.8 * np.sin(2 * np.pi * 2000 * np.arange(round(CLICK_S * rate)) / rate)
    for second in range(1, int(lasts_s) + 1):
        at = second * rate
        piece = burst[: max(0, len(samples) - at)]
        samples[at : at + len(piece)] = piece
    return samples


@dataclass(frozen=True)
class Watched:
    """What a player would show: numbers and times of pictures, times of clicks, in seconds."""

    numbers: list[int]
    times_s: list[float]
    ends_s: float
    clicks_s: list[float]
    sound_s: float

    @property
    def count(self) -> int:
        return len(self.numbers)


def watch(path: Path, *, read: Any = picture_number) -> Watched:
    """Decode a written file from its beginning, and nothing of the code under test."""
    numbers, times, ends = [], [], 0.0
    sound: list[NDArray[np.float32]] = []
    sound_begin_s: float | None = None
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            assert frame.time is not None
            assert frame.time_base is not None
            numbers.append(read(frame))
            times.append(frame.time)
            ends = frame.time + float((frame.duration or 0) * frame.time_base)
        rate = 0
    with av.open(str(path)) as container:
        if container.streams.audio:
            for piece in container.decode(audio=0):
                rate = piece.sample_rate
                if sound_begin_s is None:
                    sound_begin_s = piece.time
                sound.append(np.asarray(piece.to_ndarray(), np.float32)[0])
    samples = np.concatenate(sound) if sound else np.zeros(0, np.float32)
    begin_s = sound_begin_s or 0.0
    return Watched(
        numbers,
        times,
        ends,
        [begin_s + at for at in _onsets(samples, rate)] if rate else [],
        begin_s + len(samples) / rate if rate else 0.0,
    )


def _onsets(samples: NDArray[np.float32], rate: int) -> list[float]:
    """Times in seconds at which it turns loud after a moment of quiet."""
    loud = np.flatnonzero(np.abs(samples) > 0.3)
    fresh = np.diff(loud, prepend=-rate) > rate // 50
    return [float(at) / rate for at in loud[fresh]]


def prediction(
    *moments: tuple[float, float, float],
    query: str = "a query",
    video: str = "video.mp4",
    duration_s: float = 20.0,
    fps: Fraction = Fraction(1, 2),
    start_s: float = 0.0,
) -> Prediction:
    """A prediction with these moments (start, end, score), its saliency highest in the first."""
    clips = max(1, round(duration_s * fps))
    starts = start_s + np.arange(clips) / float(fps)
    centers = starts + 0.5 / float(fps)
    saliency = np.full(clips, 0.1)
    for begin, end, score in moments:
        middle, spread = (begin + end) / 2, max(end - begin, 1.0)
        saliency = np.maximum(saliency, score * np.exp(-(((centers - middle) / spread) ** 2)))
    return Prediction(
        query=query,
        moments=tuple(Moment(start_s=a, end_s=b, score=s) for a, b, s in moments),
        saliency=saliency.astype(np.float32),
        clip_starts_s=starts,
        boundaries=np.array([list(moment) for moment in moments]).reshape(-1, 3),
        query_truncated=False,
        video=video,
        duration_s=duration_s,
        fps=fps,
        sampling="exact",
        model="tiny",
        timings=Timings(encode_s=0, text_s=0, ground_s=0),
    )
