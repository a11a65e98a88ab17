"""Presence: whether the query is in the video at all.

Every window gives a few presence statistics. Calibration (`r2rt.quality.calibration`) chooses the
one that best separates queries that are in a video (present) from queries that are not (absent),
and stores its null distribution F, the distribution over windows and absent queries: quantiles
and, beyond the last one, an exponential tail. It gives

- the confidence of a value x: F(x), the share of absent queries below x;
- the threshold: the value that a share of `false_alarm` of the absent queries exceeds.

A long video has many windows, and so many chances to exceed a threshold by luck. The maximum of W
independent windows is below x with probability F(x)^W (Šidák). This is the confidence for W
windows, and the threshold becomes the x with F(x) = (1 - false_alarm)^(1 / W). Real windows overlap
and resemble each other, so the true rate of false alarms is at most that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from r2rt.model.contract import level_lengths

if TYPE_CHECKING:
    from r2rt.model.contract import ModelDims
    from r2rt.model.manifest import Presence

__all__ = ["LEVELS", "STATISTICS", "Statistic", "confidence", "presence_statistics", "threshold"]

Float = NDArray[np.float64]

# The presence statistics of a window:
# - score: the best point's class logit;
# - saliency: the maximum over clips;
# - contrast: that maximum minus the median;
# - similarity: the saliency of that clip divided by its class score. In models that multiply the
#   class score and the cosine of clip and query, this is the cosine.
Statistic: TypeAlias = Literal["score", "saliency", "contrast", "similarity"]
STATISTICS: tuple[Statistic, ...] = ("score", "saliency", "contrast", "similarity")
# The manifest has the quantiles of the null distribution at these levels.
LEVELS = np.arange(20) / 20.0
_REST = 1 / 20  # share beyond the last level


def presence_statistics(
    class_logits: NDArray[np.floating[Any]],
    saliency: NDArray[np.floating[Any]],
    dims: ModelDims,
    *,
    merged: bool,
) -> Float:
    """Return the presence statistics (S,) of one window and query, in the order of `STATISTICS`.

    Args:
        class_logits: (M,), the points of all levels one after another.
        saliency: (T,), one value a clip.
        dims: sizes of the model.
        merged: whether saliency is the class score times the cosine similarity.
    """
    clip = int(np.argmax(saliency))
    peak = float(saliency[clip])
    similarity = peak
    if merged:
        # As in the model: each of a level's scores is repeated T // length times, the last one to
        # the end, and the highest counts.
        lengths = level_lengths(len(saliency), dims.strides)
        firsts = np.cumsum((0, *lengths[:-1]))
        logit = max(
            float(class_logits[first + min(clip // (len(saliency) // length), length - 1)])
            for length, first in zip(lengths, firsts, strict=True)
            if length
        )
        similarity = peak * (1.0 + math.exp(min(-logit, 60.0)))
    return np.array(
        [float(class_logits.max()), peak, peak - float(np.median(saliency)), similarity]
    )


def threshold(presence: Presence, windows: int = 1) -> float:
    """Return what the maximum over so many windows must exceed for a query to count as present."""
    rest = -math.expm1(math.log1p(-presence.false_alarm) / windows)
    if rest > _REST - 1e-9:
        return float(np.interp(1.0 - rest, LEVELS, presence.quantiles))
    return presence.quantiles[-1] + presence.tail * math.log(_REST / rest)


def confidence(presence: Presence, statistics: Float) -> tuple[bool, float]:
    """Return whether the query is present in the video, and the confidence.

    Args:
        presence: the model's calibration.
        statistics: (W, S), a row a window.

    Returns:
        Whether the best window exceeds the threshold for W windows, and the share of absent
        queries whose best window would be below it.
    """
    value = float(statistics[:, STATISTICS.index(presence.statistic)].max())
    last = presence.quantiles[-1]
    if value <= last:
        below = float(np.interp(value, presence.quantiles, LEVELS))
    elif presence.tail:
        below = 1.0 - _REST * math.exp((last - value) / presence.tail)
    else:
        below = 1.0
    windows = len(statistics)
    return value > threshold(presence, windows), float(below**windows)
