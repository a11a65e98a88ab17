"""Is what was asked for in the video at all? What speaks for it, and how much must.

Every window gives a few numbers, its *evidence*. Calibration (`r2rt.quality.calibration`) chooses
the one that best tells queries that belong to a video from those that do not, and stores what it is
in windows that hold nothing of what is asked: quantiles of it and, beyond the last, an exponential
tail. From these follow

- how sure one is that a query belongs: F(x), the share of queries that do not belong that stay
  below x in a window;
- the threshold, which `false_alarm` of the queries that do not belong exceed.

A long video has many windows and so many chances to exceed a threshold by luck. The largest of W
independent windows stays below x with F(x)^W (Šidák), so that is how sure one is of the best of W
windows, and the threshold rises to where F(x) = (1 - false_alarm)^(1 / W). Windows overlap and
resemble each other, so fewer false alarms come through than that, not more.
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

__all__ = ["LEVELS", "STATISTICS", "Statistic", "confidence", "evidence_of", "threshold"]

Float = NDArray[np.float64]

# Columns of the evidence:
# - score: the best point's class logit;
# - saliency: the highest of all clips;
# - contrast: how far that is above the median clip;
# - similarity: the saliency of that clip over its class score, which is the cosine of clip and
#   query where the model multiplies the two.
Statistic: TypeAlias = Literal["score", "saliency", "contrast", "similarity"]
STATISTICS: tuple[Statistic, ...] = ("score", "saliency", "contrast", "similarity")
# Shares of the queries that do not belong at which the manifest tells the statistic.
LEVELS = np.arange(20) / 20.0
_REST = 1 / 20  # beyond the last of them


def evidence_of(
    class_logits: NDArray[np.floating[Any]],
    saliency: NDArray[np.floating[Any]],
    dims: ModelDims,
    *,
    merged: bool,
) -> Float:
    """Return the evidence (S,) of one window for one query, in the order of `STATISTICS`.

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
    """Return what the best of so many windows must exceed for a query to belong to the video."""
    rest = -math.expm1(math.log1p(-presence.false_alarm) / windows)
    if rest > _REST - 1e-9:
        return float(np.interp(1.0 - rest, LEVELS, presence.quantiles))
    return presence.quantiles[-1] + presence.tail * math.log(_REST / rest)


def confidence(presence: Presence, evidence: Float) -> tuple[bool, float]:
    """Return whether the query belongs to the video, and how sure that is.

    Args:
        presence: the model's calibration.
        evidence: (W, S), a row a window.

    Returns:
        Whether the best window exceeds the threshold for so many windows, and the share of queries
        that do not belong whose best window would stay below it.
    """
    value = float(evidence[:, STATISTICS.index(presence.statistic)].max())
    last = presence.quantiles[-1]
    if value <= last:
        below = float(np.interp(value, presence.quantiles, LEVELS))
    elif presence.tail:
        below = 1.0 - _REST * math.exp((last - value) / presence.tail)
    else:
        below = 1.0
    windows = len(evidence)
    return value > threshold(presence, windows), float(below**windows)
