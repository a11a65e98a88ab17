"""Calibrating presence: from queries that are in their videos and queries that are not.

Run present and absent queries, then::

    presence = calibrate(answers_to_present_queries, answers_to_absent_queries)
    store_presence(bundle_folder, presence)

Of the statistics in `r2rt.grounding.presence`, the one with the largest area under the ROC curve is
chosen. Its threshold is the smallest one that at most `false_alarm` of the n absent queries exceed,
counted as if there were n + 1 of them (split conformal prediction: Vovk et al., 2005). Then the
expected rate of false alarms on new queries of the same kind is at most `false_alarm`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from r2rt.errors import QueryError
from r2rt.files import replacing
from r2rt.grounding.prediction import Prediction
from r2rt.grounding.presence import LEVELS, STATISTICS, threshold
from r2rt.model.manifest import MANIFEST_NAME, Presence, manifest_bytes, read_manifest
from r2rt.textfiles import read_json_lines

__all__ = [
    "FEWEST",
    "Pair",
    "calibrate",
    "check_counts",
    "read_pairs",
    "roc_area",
    "store_presence",
]

Float = NDArray[np.float64]

# Fewer than 19 absent queries cannot guarantee a false alarm rate of 5 %.
FEWEST = 20
_TAIL_FROM = 0.9
_RESAMPLES = 1000
_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A query, a video, and whether the query is in it."""

    video: str
    query: str
    belongs: bool


def calibrate(
    positives: Sequence[Prediction],
    negatives: Sequence[Prediction],
    false_alarm: float = 0.05,
    *,
    seed: int = 0,
) -> Presence:
    """Return the calibration of the model that gave these answers.

    Args:
        positives: answers of `Grounder.ground` to queries that are in their videos.
        negatives: its answers to queries that are not. Each of their windows counts.
        false_alarm: accepted share of absent queries that are taken for present, in (0, 0.5].
        seed: of the bootstrap.

    Raises:
        QueryError: fewer than 20 of a kind, answers without presence statistics, or a share out of
            range.
    """
    if not 0 < false_alarm <= 0.5:
        raise QueryError(f"false alarms of {false_alarm:g}: give a share above 0, up to 0.5")
    check_counts(len(positives), len(negatives))
    if any(not len(answer.presence_statistics) for answer in (*positives, *negatives)):
        raise QueryError(
            "answers without presence statistics; calibrate on answers of Grounder.ground"
        )
    inside = np.stack([answer.presence_statistics.max(axis=0) for answer in positives])
    outside = np.stack([answer.presence_statistics.max(axis=0) for answer in negatives])
    areas: dict[str, float] = {
        name: roc_area(inside[:, column], outside[:, column])
        for column, name in enumerate(STATISTICS)
    }
    statistic = max(STATISTICS, key=lambda name: areas[name])
    column = STATISTICS.index(statistic)
    found = inside[:, column]
    windows = np.array([len(answer.presence_statistics) for answer in positives])
    empty = np.concatenate([answer.presence_statistics[:, column] for answer in negatives])

    presence = Presence(
        statistic=statistic,
        false_alarm=false_alarm,
        quantiles=_quantiles(empty),
        tail=_tail(empty),
        areas=areas,
        kept=0.0,
        kept_interval=(0.0, 0.0),
        positives=len(positives),
        negatives=len(negatives),
    )
    low, high = _bootstrap(presence, found, windows, empty, np.random.default_rng(seed))
    return msgspec.structs.replace(
        presence, kept=_kept(presence, found, windows), kept_interval=(low, high)
    )


def check_counts(positives: int, negatives: int) -> None:
    """Raise `QueryError` for fewer queries that belong, or that do not, than calibration needs."""
    if min(positives, negatives) < FEWEST:
        raise QueryError(
            f"{positives} queries that belong and {negatives} that do not: give at least "
            f"{FEWEST} of each"
        )


def store_presence(folder: Path, presence: Presence | None) -> None:
    """Write a calibration into the manifest of the bundle in `folder`, or remove it if None.

    Raises:
        ModelNotFoundError, BundleSchemaError, BundleDamagedError: there is no readable bundle.
        OutputError: the manifest cannot be written.
    """
    manifest = msgspec.structs.replace(read_manifest(folder), presence=presence)
    with replacing(folder / MANIFEST_NAME) as temporary:
        temporary.write_bytes(manifest_bytes(manifest))


def read_pairs(path: str | Path) -> list[Pair]:
    """Return the pairs of a jsonl file: `video`, `query` and `belongs` (true or false) a line.

    Relative paths are relative to the working directory. Other fields and blank lines are
    ignored.

    Raises:
        SourceNotFoundError: the file cannot be read.
        QueryError: a line is no such object, with the line's number; or there is no line.
    """
    example = '{"video": "a.mp4", "query": "a dog runs", "belongs": true}'
    return [pair for _, pair in read_json_lines(path, Pair, example=example)]


def roc_area(positives: Float, negatives: Float) -> float:
    """Return how often a positive exceeds a negative, ties counted half: the area under the ROC."""
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left")
    up_to = np.searchsorted(ordered, positives, side="right")
    return float((below + up_to).mean() / (2 * len(negatives)))


def _quantiles(values: Float) -> tuple[float, ...]:
    """Return the quantiles at `LEVELS`: the value of rank ⌈level · (n + 1)⌉."""
    ordered, count = np.sort(values), len(values)
    # Rounded first, so that an error in the last bit does not raise a whole rank.
    ranks = [math.ceil(round(level * (count + 1), 9)) for level in LEVELS.tolist()]
    return tuple(float(ordered[min(max(rank, 1), count) - 1]) for rank in ranks)


def _tail(values: Float) -> float:
    """Return the mean excess of the values above the 90th percentile."""
    start = np.quantile(values, _TAIL_FROM)
    beyond = values[values > start]
    return float((beyond - start).mean()) if len(beyond) else 0.0


def _kept(presence: Presence, found: Float, windows: NDArray[np.int_]) -> float:
    counts, which = np.unique(windows, return_inverse=True)
    needed = np.array([threshold(presence, int(count)) for count in counts])
    return float((found > needed[which]).mean())


def _bootstrap(
    presence: Presence,
    found: Float,
    windows: NDArray[np.int_],
    empty: Float,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Return the 95 % interval of the share that is kept; both kinds are resampled."""
    kept = []
    for _ in range(_RESAMPLES):
        drawn = rng.choice(empty, len(empty))
        again = msgspec.structs.replace(presence, quantiles=_quantiles(drawn), tail=_tail(drawn))
        chosen = rng.integers(len(found), size=len(found))
        kept.append(_kept(again, found[chosen], windows[chosen]))
    low, high = np.quantile(kept, _INTERVAL)
    return float(low), float(high)
