"""How one linear layer is quantised: its range, the scales of its channels, its bias.

The activations x of y = x·W + b are divided by t, a number a channel, and rounded to bytes of step
s; the rows of W are multiplied by t and rounded to int8 with a scale u a column:

    y ≈ s·u·(round(x / (t·s)) · round(t·W / u)) + b + c.

A t that falls with a channel's reach evens out what one step has to cover (SmoothQuant, Xiao et
al., ICML 2023: t = max|x|^α / max|W|^(1-α)). c is the mean error on calibration data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2rt.quality.int8.samples import Samples

__all__ = ["Fit", "fit_linear"]

Floats = NDArray[np.float32]

# α of SmoothQuant that are tried, besides leaving the channels as they are.
_ALPHAS = (0.35, 0.5, 0.7)
# Shares of the calibration's range that the byte covers; beyond it values are cut off.
_SHARES = (1.0, 0.85)
# A division that cannot be folded costs a pass over the activations: it has to pay.
_EXPLICIT_GAIN = 0.6
# Every n-th column, this many in all, is enough to estimate the error of all.
_COLUMNS = 256
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """How to quantise a layer (I, O).

    Attributes:
        divisors: (I,) what each input channel is divided by, if they are at all.
        explicit: whether that takes an operator of its own.
        scale: step of the activations' byte.
        zero: the byte that means 0.
        correction: (O,) added to the bias.
        error: relative error of the layer's outputs on the samples.
    """

    divisors: Floats | None
    explicit: bool
    scale: float
    zero: int
    correction: Floats
    error: float

    def quantize_weight(self, weight: Floats) -> tuple[NDArray[np.int8], Floats]:
        """Return a weight's codes (I, O) and scales (O,)."""
        scaled = weight if self.divisors is None else weight * self.divisors[:, None]
        return _quantize_columns(scaled)


def fit_linear(
    weight: Floats, samples: Samples, *, foldable: bool, pixels: bool, smooth: bool = True
) -> Fit:
    """Choose how to quantise a layer: what errs least on what it read.

    Args:
        weight: (I, O).
        samples: what the layer read.
        foldable: whether dividing its input's channels costs nothing.
        pixels: whether its input is bytes already.
        smooth: whether channels may be divided at all.
    """
    if pixels:
        return _Trial(weight, samples, None, explicit=False).fit(scale=1.0, zero=0)
    some = weight[:, :: -(-weight.shape[1] // _COLUMNS)]
    found = _best(some, samples, None, explicit=False)
    if smooth:
        smoothed = min(
            (_best(some, samples, t, explicit=not foldable) for t in _divisors(weight, samples)),
            key=lambda fit: fit.error,
        )
        if smoothed.error < (1.0 if foldable else _EXPLICIT_GAIN) * found.error:
            found = smoothed
    trial = _Trial(weight, samples, found.divisors, explicit=found.explicit)
    return trial.fit(scale=found.scale, zero=found.zero)


def _divisors(weight: Floats, samples: Samples) -> Iterator[Floats]:
    reach = np.maximum(np.maximum(-samples.low, samples.high), 1e-5)
    rows = np.maximum(np.abs(weight).max(axis=1), 1e-5)
    for alpha in _ALPHAS:
        t = reach**alpha / rows ** (1 - alpha)
        yield (t / np.exp(np.log(t).mean())).astype(np.float32)


def _best(weight: Floats, samples: Samples, divisors: Floats | None, *, explicit: bool) -> Fit:
    trial = _Trial(weight, samples, divisors, explicit=explicit)
    low, high = samples.low, samples.high
    if divisors is not None:
        low, high = low / divisors, high / divisors
    least, most = min(float(low.min()), 0.0), max(float(high.max()), 0.0)
    fits = []
    for share in _SHARES:
        scale = max(share * (most - least) / 255, _TINY)
        fits.append(trial.fit(scale=scale, zero=min(255, max(0, round(-share * least / scale)))))
    return min(fits, key=lambda fit: fit.error)


class _Trial:
    """One weight and one set of divisors, tried with several ranges."""

    def __init__(
        self, weight: Floats, samples: Samples, divisors: Floats | None, *, explicit: bool
    ) -> None:
        self._divisors = divisors
        self._explicit = explicit and divisors is not None
        rows = np.concatenate([samples.typical, samples.extreme])
        self._typical = len(samples.typical)
        self._want = rows @ weight
        centred = self._want - self._want.mean(axis=0)
        self._spread = max(float(np.square(centred, dtype=np.float64).sum()), _TINY)
        self._rows = rows if divisors is None else rows / divisors
        codes, scales = _quantize_columns(
            weight if divisors is None else weight * divisors[:, None]
        )
        self._weight = codes * scales

    def fit(self, *, scale: float, zero: int) -> Fit:
        codes = (np.rint(self._rows / scale) + zero).clip(0, 255) - zero
        difference = self._want - (codes * np.float32(scale)) @ self._weight
        correction = difference[: self._typical].mean(axis=0)
        error = float(np.square(difference - correction, dtype=np.float64).sum())
        return Fit(
            divisors=self._divisors,
            explicit=self._explicit,
            scale=scale,
            zero=zero,
            correction=correction,
            error=math.sqrt(error / self._spread),
        )


def _quantize_columns(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    scales = np.maximum(np.abs(weight).max(axis=0), _TINY) / np.float32(127)
    return np.rint(weight / scales).astype(np.int8), scales.astype(np.float32)
