"""The shape of a video's sound: the lowest and the highest sample of every fiftieth of a second."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from r2rt.media.indexed_video import IndexedVideo
from r2rt.media.sound import SoundFormat, audio_tracks, read_sound

__all__ = ["PEAKS_PER_S", "sound_peaks", "spread"]

PEAKS_PER_S = 50
_RATE = 8000
_SAMPLES = _RATE // PEAKS_PER_S


def sound_peaks(
    video: IndexedVideo, progress: Callable[[int, int], None] | None = None
) -> NDArray[np.int8]:
    """Return (2, N) int8: lowest and highest sample a fiftieth of a second, 127 for full scale.

    Args:
        video: the file; its first audio track is read, mixed to one channel at 8 kHz.
        progress: called with parts done and all parts; what it raises passes through.

    Returns:
        N = 0 where the video has no sound.
    """
    if not audio_tracks(video):
        return np.zeros((2, 0), np.int8)
    end_s = Fraction(video.duration_s)
    parts = max(1, round(end_s * PEAKS_PER_S))
    peaks = np.zeros((2, parts), np.float32)
    rest = np.zeros(0, np.float32)
    done = 0
    for block in read_sound(video, 0, Fraction(0), end_s, SoundFormat(rate=_RATE, layout="mono")):
        rest = np.concatenate([rest, block[0]])
        whole = min(len(rest) // _SAMPLES, parts - done)
        if whole:
            pieces = rest[: whole * _SAMPLES].reshape(whole, _SAMPLES)
            peaks[0, done : done + whole] = pieces.min(1)
            peaks[1, done : done + whole] = pieces.max(1)
            rest = rest[whole * _SAMPLES :]
            done += whole
            if progress is not None and done % 500 < whole:
                progress(done, parts)
    return np.clip(np.rint(peaks * 127), -127, 127).astype(np.int8)


def spread(
    peaks: NDArray[np.int8], start_s: float, end_s: float, count: int
) -> tuple[list[float], list[float]]:
    """Return the lowest and the highest sample of `count` equal parts of a span, -1 to 1.

    Parts beyond the sound are 0.
    """
    edges = np.linspace(start_s, end_s, count + 1) * PEAKS_PER_S
    low, high = [], []
    total = peaks.shape[1]
    for first, last in zip(
        np.floor(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int), strict=True
    ):
        piece = peaks[:, max(first, 0) : min(max(last, first + 1), total)]
        low.append(round(float(piece[0].min()) / 127, 3) if piece.size else 0.0)
        high.append(round(float(piece[1].max()) / 127, 3) if piece.size else 0.0)
    return low, high
