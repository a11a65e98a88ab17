"""Ranks across videos: false alarms of "in this library" by simulation, and the fused score."""

from __future__ import annotations

import math

import numpy as np
import pytest

from r2rt.archive.rank import fused_score, presence_in_library, suppressed
from r2rt.grounding.presence import LEVELS, STATISTICS
from r2rt.model.manifest import Presence

_WINDOWS, _GROUNDED = 400, 20


def calibrated(rng: np.random.Generator) -> Presence:
    """Calibrate on windows whose statistic is exponential, which has an exponential tail."""
    values = np.sort(rng.exponential(size=20_000))
    last = float(np.quantile(values, LEVELS[-1]))
    return Presence(
        statistic="saliency",
        false_alarm=0.05,
        quantiles=tuple(np.quantile(values, LEVELS).tolist()),
        tail=float((values[values > last] - last).mean()),
        areas={},
        kept=1.0,
        kept_interval=(1.0, 1.0),
        positives=100,
        negatives=100,
    )


def evidence(values: np.ndarray) -> np.ndarray:
    rows = np.zeros((len(values), len(STATISTICS)))
    rows[:, STATISTICS.index("saliency")] = values
    return rows


@pytest.mark.parametrize("likeness", [0.0, 1.0])
def test_queries_that_no_video_holds_raise_few_alarms(likeness: float) -> None:
    """Whether or not the first stage prefers the windows in which the grounder errs."""
    rng = np.random.default_rng(3)
    presence = calibrated(rng)
    alarms = []
    for _ in range(1000):
        windows = rng.exponential(size=_WINDOWS)
        cosines = likeness * windows + rng.normal(size=_WINDOWS)
        chosen = windows[np.argsort(-cosines)[:_GROUNDED]]
        alarms.append(presence_in_library(presence, evidence(chosen), _WINDOWS)[0])
    # Three standard deviations of a share of 5 % above it.
    assert np.mean(alarms) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(alarms))
    if likeness:
        assert np.mean(alarms) > 0.01  # the limit is not out of reach


def test_a_window_that_stands_out_is_present_with_confidence() -> None:
    presence = calibrated(np.random.default_rng(4))
    present, sure = presence_in_library(presence, evidence(np.array([0.1, 14.0])), _WINDOWS)
    assert present
    assert sure > 0.99
    present, sure = presence_in_library(presence, evidence(np.array([0.1, 1.0])), _WINDOWS)
    assert not present
    assert sure < 0.01


def test_the_score_is_the_formula() -> None:
    for p, z in ((0.2, 0.0), (0.9, -1.5), (0.5, 3.0)):
        odds = p / (1 - p) * math.exp(z)
        assert fused_score(p, z) == pytest.approx(odds / (1 + odds))
    assert 0 < fused_score(0.0, 0.0) < fused_score(1.0, 0.0) < 1


def test_a_moment_that_two_windows_found_is_kept_once() -> None:
    spans = [("a", 0.0, 10.0), ("b", 0.0, 10.0), ("a", 1.0, 10.0), ("a", 8.0, 20.0)]
    assert suppressed(spans) == [0, 1, 3]
