"""The time in a moment that shows it best."""

from __future__ import annotations

import numpy as np

from r2rt.grounding.prediction import Moment, Prediction

__all__ = ["peak_s"]


def peak_s(prediction: Prediction, moment: Moment) -> float:
    """Return the middle of the moment's most salient clip, on the source's clock, in seconds.

    That is the time whose frame represented the clip when the video was encoded. It lies inside the
    moment, also where a clip is longer.
    """
    clip_s = 1 / float(prediction.fps)
    starts = prediction.clip_starts_s
    overlap = np.flatnonzero((starts < moment.end_s) & (starts + clip_s > moment.start_s))
    if not len(overlap):
        return (moment.start_s + moment.end_s) / 2
    middles = starts[overlap] + clip_s / 2
    inside = (middles >= moment.start_s) & (middles < moment.end_s)
    if inside.any():
        overlap, middles = overlap[inside], middles[inside]
    best = float(middles[int(np.argmax(prediction.saliency[overlap]))])
    if moment.start_s <= best < moment.end_s:
        return best
    return (moment.start_s + moment.end_s) / 2
