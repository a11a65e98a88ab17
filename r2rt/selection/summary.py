"""Summaries: the best selection of a video's shots that is no longer than asked."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import QueryError
from r2rt.grounding.encoded import EncodedVideo
from r2rt.grounding.options import EncodeOptions, check_names
from r2rt.grounding.prediction import Prediction
from r2rt.selection.saliency import clips_as_moment, saliency_of
from r2rt.selection.shots import video_shots
from r2rt.timecode import parse_time

if TYPE_CHECKING:
    from r2rt.grounding.grounder import Grounder, Source
    from r2rt.grounding.windows import WindowLength

__all__ = [
    "best_subset",
    "budget_clips",
    "choose_shots",
    "choose_summary",
    "parse_length",
    "summarize",
]

Span: TypeAlias = tuple[int, int]
Ints = NDArray[np.int64]

# A summary shows as much as it can: what goes on longer than this comes in parts.
_LONGEST_SHOT_S = 10.0
# Steps from the lowest saliency to the highest. Sums of whole numbers are exact.
_STEPS = 1 << 24


def summarize(
    grounder: Grounder,
    video: EncodedVideo | Source,
    query: str | None = None,
    *,
    length: float | str = "10%",
    window: WindowLength = "auto",
    overlap: float | None = None,
    **encoding: Unpack[EncodeOptions],
) -> Prediction:
    """Choose the shots that summarise a video within a length.

    Args:
        grounder: the session.
        video: an encoded video, or a source, which is then encoded first.
        query: what the summary is about; without one, see `r2rt.selection.saliency.fallback_query`.
        length: the most it may last: seconds, or text such as `60s`, `1:30` or `10%` of the video.
        window: see `Grounder.ground`.
        overlap: see `Grounder.ground`.
        encoding: keyword arguments of `Grounder.encode`, if `video` is a source.

    Returns:
        A prediction whose moments are the summary in the order of the video, those that touch as
        one; a score is the mean saliency, in [0, 1].

    Raises:
        QueryError: the query is empty, or the length is none, or shorter than a clip.
        R2rtError: see `Grounder.ground`.
    """
    check_names("summarize", encoding, EncodeOptions)
    if not isinstance(video, EncodedVideo):
        video = grounder.encode(video, **encoding)
    budget_clips(length, video.duration_s, video.fps)
    answer, _ = saliency_of(grounder, video, query, window=window, overlap=overlap)
    return choose_summary(grounder, video, answer, length=length)


def choose_summary(
    grounder: Grounder, video: EncodedVideo, answer: Prediction, *, length: float | str
) -> Prediction:
    """Return an answer with the summary by its saliency as moments; see `summarize`."""
    budget = budget_clips(length, answer.duration_s, answer.fps)
    borders = video_shots(video, grounder.bundle.dims, max_s=_LONGEST_SHOT_S)
    spans = _joined(choose_shots(answer.saliency, borders, budget))
    return dataclasses.replace(
        answer, moments=tuple(clips_as_moment(answer, *span) for span in spans)
    )


def parse_length(length: float | str) -> tuple[float | None, float]:
    """Return the seconds that `60s`, `1:30` or a number say and 1, or None and the share of `10%`.

    Raises:
        QueryError: it is no length above 0, or no share up to 100%.
    """
    if isinstance(length, str) and length.strip().endswith("%"):
        try:
            share = float(length.strip()[:-1]) / 100
        except ValueError:
            share = math.nan
        if not 0 < share <= 1:
            raise QueryError(f"a summary of {length!r}: write 10%, above 0 and up to 100%")
        return None, share
    seconds = parse_time(length) if isinstance(length, str) else float(length)
    if not 0 < seconds < math.inf:
        raise QueryError(f"a summary of {seconds:g} s: give a length above 0, such as 60s or 10%")
    return seconds, 1.0


def budget_clips(length: float | str, duration_s: float, fps: Fraction) -> int:
    """Return how many whole clips fit into `60s`, `1:30`, `10%` or a number of seconds.

    A length of the whole video has room for all of its clips, whose last one need not be whole.

    Raises:
        QueryError: it is no length, or no clip fits.
    """
    seconds, share = parse_length(length)
    seconds = share * duration_s if seconds is None else seconds
    # Floats such as 0.1 · 20 fall short of what they mean.
    clips = math.floor(seconds * float(fps) + 1e-6)
    if seconds >= duration_s:
        clips = max(clips, 1, math.floor(duration_s * float(fps) + 0.5))
    if clips < 1:
        clip_s = float(1 / fps)
        raise QueryError(f"a summary of {seconds:g} s: give at least a clip, {clip_s:g} s")
    return clips


def choose_shots(
    saliency: NDArray[np.floating[Any]], borders: Sequence[int], budget: int
) -> list[Span]:
    """Return the spans of clips with the largest total weight within the budget, in order.

    A clip's weight is its saliency minus the video's minimum, plus epsilon so that ties prefer the
    longer selection. Of a shot that is longer than the budget, the part of it that fits and has the
    largest weight is used.

    Args:
        saliency: (T,).
        borders: of shots: 0, where each further one starts, T.
        budget: the most clips in all.
    """
    sums = np.concatenate([[0], np.cumsum(_worth(saliency))])
    spans = [_best_part(sums, start, end, budget) for start, end in itertools.pairwise(borders)]
    lengths = [end - start for start, end in spans]
    values = [int(sums[end] - sums[start]) for start, end in spans]
    return [spans[index] for index in best_subset(lengths, values, budget)]


def best_subset(lengths: Sequence[int], values: Sequence[int], budget: int) -> list[int]:
    """Return the indices, ascending, of the items worth most that fit in: the 0/1 knapsack.

    Exact, by dynamic programming over the budget. Of equally good selections it takes one without
    the last items, so that the earlier of two equal items is the one that is taken.

    Args:
        lengths: of the items, 1 or more.
        values: of the items, 0 or more.
        budget: the most that the lengths may come to; 0 or more.
    """
    budget = min(budget, sum(lengths))
    best = np.zeros(budget + 1, np.int64)
    taken: list[NDArray[np.uint8]] = []  # a bit for every budget: an hour's memory is a megabyte
    for length, value in zip(lengths, values, strict=True):
        better = np.zeros(budget + 1, bool)
        if length <= budget:
            candidate = best[: budget + 1 - length] + value
            better[length:] = candidate > best[length:]
            best[length:] = np.where(better[length:], candidate, best[length:])
        taken.append(np.packbits(better))
    chosen, left = [], budget
    for index in range(len(lengths) - 1, -1, -1):
        if taken[index][left >> 3] >> (7 - (left & 7)) & 1:
            chosen.append(index)
            left -= lengths[index]
    return chosen[::-1]


def _worth(saliency: NDArray[np.floating[Any]]) -> Ints:
    """Return (T,) whole numbers, 1 for the lowest clip."""
    values = saliency.astype(np.float64)
    low, high = values.min(), values.max()
    scale = _STEPS / (high - low) if high > low else 0.0
    return np.asarray(np.round((values - low) * scale), dtype=np.int64) + 1


def _best_part(sums: Ints, start: int, end: int, budget: int) -> Span:
    if end - start <= budget:
        return start, end
    worth = sums[start + budget : end + 1] - sums[start : end + 1 - budget]
    first = start + int(worth.argmax())
    return first, first + budget


def _joined(spans: Sequence[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
