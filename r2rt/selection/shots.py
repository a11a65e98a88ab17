"""Shots: where a video's content changes, found from its tokens.

Kernel temporal segmentation (Potapov, Douze, Harchaoui, Schmid: Category-specific video
summarization, ECCV 2014) with the linear kernel: shots are chosen so that clips scatter least
about their shot's mean, and each shot costs a penalty. The scatter of a shot of the
clips [a, b) is Σ|x|² - |Σx|² / (b - a), which cumulative sums give in O(1). With shots of at most L
clips, dynamic programming takes O(T · L) steps and O(T) memory.

Two things differ from the paper. The penalty is the same for every shot, while theirs depends on
the number of shots; a constant one needs only one pass over the video. And it is a multiple of the
video's own noise, the scatter of successive clips, so that nothing is tuned to a data set.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2rt.grounding.growing_array import forget

if TYPE_CHECKING:
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.model.contract import ModelDims

__all__ = ["clip_features", "find_shots", "video_shots"]

Floats = NDArray[np.float64]

# A border inside a shot reduces the scatter by about one within-shot variance, by chance by more.
_PENALTY = 8.0
# The least difference between shots, as a share of the whole video's variance: the noise of a
# still image is 0.
_LEAST = 0.01
# Even if three in four clips begin a shot, this share of neighbours belong to the same shot.
_WITHIN = 0.25
_CLIPS_AT_ONCE = 256
# Sums of floats differ in their last digits; rounding makes equal costs equal.
_DECIMALS = 9


def clip_features(video: EncodedVideo, dims: ModelDims) -> Floats:
    """Return (T, D) unit vectors: the last layer's CLS token of each clip, normalised.

    Tokens are read a few clips at a time and released again: only the result is kept in memory.
    """
    parts = []
    for start in range(0, video.num_clips, _CLIPS_AT_ONCE):
        tokens = video.full_tokens(start, start + _CLIPS_AT_ONCE)
        parts.append(tokens[:, -1, 0, : dims.width].astype(np.float64))
        forget(tokens)
    features = np.concatenate(parts)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length > 0, length, 1.0)


def find_shots(features: Floats, *, max_clips: int) -> list[int]:
    """Return the borders of shots: 0, the start of each further shot, and T.

    Args:
        features: (T, D), one row a clip, T of 1 or more.
        max_clips: the longest shot; longer ones are split where that costs least.
    """
    count = len(features)
    sums = np.concatenate([np.zeros((1, features.shape[1])), np.cumsum(features, axis=0)])
    squares = np.concatenate([[0.0], np.cumsum(np.square(features).sum(axis=1))])
    penalty = _penalty(features, sums, squares)
    best = np.zeros(count + 1)
    before = np.zeros(count + 1, np.intp)
    for end in range(1, count + 1):
        first = max(0, end - max_clips)
        total = np.square(sums[end] - sums[first:end]).sum(axis=1)
        scatter = squares[end] - squares[first:end] - total / np.arange(end - first, 0, -1)
        cost = np.round(best[first:end] + scatter + penalty, _DECIMALS)
        choice = int(cost.argmin())  # of equal ones the longest last shot
        best[end], before[end] = cost[choice], first + choice
    borders = [count]
    while borders[-1]:
        borders.append(int(before[borders[-1]]))
    return borders[::-1]


def video_shots(video: EncodedVideo, dims: ModelDims, *, max_s: float) -> list[int]:
    """Return the borders of a video's shots in clips, each shot at most `max_s` or a clip long."""
    longest = max(1, int(Fraction(max_s) * video.fps))
    return find_shots(clip_features(video, dims), max_clips=longest)


def _penalty(features: Floats, sums: Floats, squares: Floats) -> float:
    count = len(features)
    whole = (squares[-1] - np.square(sums[-1]).sum() / count) / count
    if count < 2:
        return 1.0
    # The expected squared distance of two draws of a distribution is twice its variance.
    steps = np.square(np.diff(features, axis=0)).sum(axis=1)
    noise = float(np.quantile(steps, _WITHIN)) / 2
    return max(_PENALTY * noise, _LEAST * float(whole), 10.0**-_DECIMALS)
