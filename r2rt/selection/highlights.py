"""Highlights: the clips that stand out, as a few spans that do not overlap."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Unpack

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import QueryError
from r2rt.grounding.encoded import EncodedVideo
from r2rt.grounding.options import EncodeOptions, check_names
from r2rt.grounding.prediction import Prediction
from r2rt.selection.saliency import clips_as_moment, saliency_of
from r2rt.selection.shots import video_shots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from r2rt.grounding.grounder import Grounder, Source
    from r2rt.grounding.windows import WindowLength

__all__ = ["HighlightLength", "choose_highlights", "find_highlights", "grown", "of_length"]

Saliency = NDArray[np.floating[Any]]
Span: TypeAlias = tuple[int, int]
# `auto`: as far as the saliency stays up, within the shot.
HighlightLength: TypeAlias = float | Literal["auto"]

# A highlight does not cross the border of a shot; nothing that lasts longer is one shot.
_LONGEST_SHOT_S = 120.0


def find_highlights(
    grounder: Grounder,
    video: EncodedVideo | Source,
    query: str | None = None,
    *,
    top: int = 5,
    length_s: HighlightLength = "auto",
    window: WindowLength = "auto",
    overlap: float | None = None,
    **encoding: Unpack[EncodeOptions],
) -> Prediction:
    """Find the highlights of a video, best first.

    Args:
        grounder: the session.
        video: an encoded video, or a source, which is then encoded first.
        query: what the highlights show; None uses a fallback, see
            `r2rt.selection.saliency.fallback_query`.
        top: how many at most.
        length_s: how long each is, in seconds, rounded to clips; `auto` to grow each from its
            clip of highest saliency, within its shot, while the saliency stays above halfway from
            the median to that.
        window: see `Grounder.ground`.
        overlap: see `Grounder.ground`.
        encoding: keyword arguments of `Grounder.encode`, if `video` is a source.

    Returns:
        A prediction whose moments are the highlights; a score is the mean saliency, in [0, 1].

    Raises:
        QueryError: the query is empty, or `top` or `length_s` is not positive.
        R2rtError: see `Grounder.ground`.
    """
    _check(top, length_s)
    check_names("find_highlights", encoding, EncodeOptions)
    if not isinstance(video, EncodedVideo):
        video = grounder.encode(video, **encoding)
    answer, _ = saliency_of(grounder, video, query, window=window, overlap=overlap)
    return choose_highlights(grounder, video, answer, top=top, length_s=length_s)


def choose_highlights(
    grounder: Grounder,
    video: EncodedVideo,
    answer: Prediction,
    *,
    top: int = 5,
    length_s: HighlightLength = "auto",
) -> Prediction:
    """Return an answer with the highlights of its saliency as moments; see `find_highlights`."""
    _check(top, length_s)
    if length_s == "auto":
        borders = video_shots(video, grounder.bundle.dims, max_s=_LONGEST_SHOT_S)
        spans = grown(answer.saliency, borders, top)
    else:
        clips = max(1, round(length_s * float(answer.fps)))
        spans = of_length(answer.saliency, clips, top)
    moments = [clips_as_moment(answer, *span) for span in spans]
    moments.sort(key=lambda moment: (-moment.score, moment.start_s))
    return dataclasses.replace(answer, moments=tuple(moments))


def grown(saliency: Saliency, borders: Sequence[int], top: int) -> list[Span]:
    """Return spans that are grown from peaks, highest peak first.

    A peak is a clip that no neighbour exceeds and that stands above the median; the first counts
    wherever it stands. It grows to both sides while clips are free, of the same shot, and at least
    halfway from the median to the peak.
    """
    values = saliency.astype(np.float64)
    middle = float(np.median(values))
    beside = np.concatenate([[-np.inf], values, [-np.inf]])
    is_peak = (values >= beside[:-2]) & (values >= beside[2:])
    peaks = np.flatnonzero(is_peak)
    peaks = peaks[np.argsort(-values[peaks], kind="stable")]
    shots = np.searchsorted(np.asarray(borders), np.arange(len(values)), side="right")
    free = np.ones(len(values), bool)
    spans: list[Span] = []
    for peak in peaks.tolist():
        if len(spans) == top or (spans and values[peak] <= middle):
            break
        if not free[peak]:
            continue
        halfway = (middle + values[peak]) / 2
        fits = free & (shots == shots[peak]) & (values >= halfway)
        start, end = peak, peak + 1
        while start > 0 and fits[start - 1]:
            start -= 1
        while end < len(values) and fits[end]:
            end += 1
        free[start:end] = False
        spans.append((start, end))
    return spans


def of_length(saliency: Saliency, clips: int, top: int) -> list[Span]:
    """Return spans of so many clips (all, if there are fewer), each the best of what is left."""
    values = saliency.astype(np.float64)
    clips = min(clips, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    totals = np.round(sums[clips:] - sums[:-clips], 9)  # equal spans are to be equal
    spans: list[Span] = []
    while len(spans) < top:
        start = int(totals.argmax())
        if totals[start] == -np.inf:
            break
        spans.append((start, start + clips))
        totals[max(0, start - clips + 1) : start + clips] = -np.inf
    return spans


def _check(top: int, length_s: HighlightLength) -> None:
    if top < 1:
        raise QueryError(f"top must be 1 or more, got {top}")
    if length_s != "auto" and not 0 < length_s < math.inf:
        raise QueryError(f"highlights of {length_s:g} s: give a number of seconds above 0, or auto")
