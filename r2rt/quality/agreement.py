"""The accuracy gate: how well a quantised bundle agrees with the fp32 bundle it came from.

Both encode the same videos and answer the same queries. Compared are what the R² block reads (the
tokens of every CLIP layer, of videos and of queries) and what a user sees (moments and saliency).
`LIMITS` names every threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import ModelMismatchError, QueryError
from r2rt.grounding.moments import interval_iou
from r2rt.model.contract import TEXT_ENCODER
from r2rt.model.manifest import Figure

if TYPE_CHECKING:
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.grounder import Grounder, Source
    from r2rt.grounding.prediction import Prediction

__all__ = ["LIMITS", "QUERIES", "Agreement", "Limits", "compare", "failures", "relative_error"]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a quantised bundle must keep to.

    Attributes:
        token_error: the most that ‖got - want‖ / ‖want - mean(want)‖ may be, a CLIP layer, over the
            mapped tokens v of all clips; what all tokens share is no information, so it is left out
            of the measure.
        query_error: the same over the mapped tokens q of all queries.
        first_moment_iou: the least mean IoU of the first moment with the one that fp32 puts first.
        rank_agreement: the least mean rank correlation (Spearman) of the scores of boundaries that
            both propose.
        saliency_correlation: the least mean correlation (Pearson) of a video's saliency.
        saliency_error: the most that a clip's saliency may be off.
        tie: moments whose scores differ by less count as equal: fp32 itself does not rank them.
    """

    token_error: float = 0.05
    query_error: float = 0.05
    first_moment_iou: float = 0.9
    rank_agreement: float = 0.9
    saliency_correlation: float = 0.98
    saliency_error: float = 0.05
    tie: float = 0.005


LIMITS = Limits()

QUERIES = (
    "a person is talking to the camera",
    "a man in a blue shirt walks down a busy street",
    "two people are riding bikes",
    "a dog runs across the grass",
    "an animal looks around",
    "a woman cooks food in a kitchen",
    "close-up of hands holding a phone",
    "a view of the sky and the trees",
    "a car drives along the road",
    "the camera pans over a city at night",
    "a child is playing with a toy",
    "people are dancing at a party",
    "someone opens a door",
    "text is shown on the screen",
    "a boat on the water",
    "something falls to the ground",
)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What a comparison came to.

    Attributes:
        figures: every figure with its limit.
        videos: names of the videos.
        clips: clips of all videos together.
        queries: queries that were asked of each.
    """

    figures: tuple[Figure, ...]
    videos: tuple[str, ...]
    clips: int
    queries: int

    @property
    def passed(self) -> bool:
        """Whether every figure keeps to its limit."""
        return all(figure.passed for figure in self.figures)


def compare(
    reference: Grounder,
    candidate: Grounder,
    videos: Sequence[Source],
    *,
    queries: Sequence[str] = QUERIES,
    limits: Limits = LIMITS,
    say: Callable[[str], None] | None = None,
) -> Agreement:
    """Compare a quantised bundle with its origin on whole videos.

    Args:
        reference: the origin, fp32.
        candidate: the quantised bundle.
        videos: whatever `Grounder.encode` takes; arrays have one frame a clip.
        queries: sentences that are asked of every video.
        limits: what the figures must keep to.
        say: called with one line for each video.

    Raises:
        QueryError: there is no video or no query.
        ModelMismatchError: the bundles are of different models.
    """
    if not videos or not queries:
        raise QueryError(
            f"{len(videos)} videos and {len(queries)} queries; name at least one of each to compare"
        )
    if reference.bundle.dims != candidate.bundle.dims:
        raise ModelMismatchError(
            f"{candidate.bundle.path} is no quantised form of {reference.bundle.path}: "
            "their sizes differ; name the fp32 bundle that it was made from"
        )
    layers = reference.bundle.dims.layers
    tokens = [_Error() for _ in range(layers)]
    answers = _Answers(limits)
    names, clips = [], 0
    for video in videos:
        want_video, got_video = (_encoded(grounder, video) for grounder in (reference, candidate))
        if say is not None:
            say(f"comparing on {want_video.source}: {want_video.num_clips} clips")
        want_v = reference.finalize_tokens(want_video.tokens)
        got_v = candidate.finalize_tokens(got_video.tokens)
        for layer, error in enumerate(tokens):
            error.add(got_v[:, layer], want_v[:, layer])
        for got, want in zip(
            candidate.ground(got_video, queries),
            reference.ground(want_video, queries),
            strict=True,
        ):
            answers.add(got, want)
        names.append(want_video.source)
        clips += want_video.num_clips
    texts = [_Error() for _ in range(layers)]
    for got_q, want_q in zip(
        _query_tokens(candidate, queries), _query_tokens(reference, queries), strict=True
    ):
        for layer, error in enumerate(texts):
            error.add(got_q[layer], want_q[layer])
    figures = [
        _at_most(f"tokens, layer {layer - layers}", error.value, limits.token_error)
        for layer, error in enumerate(tokens)
    ]
    figures += [
        _at_most(f"query tokens, layer {layer - layers}", error.value, limits.query_error)
        for layer, error in enumerate(texts)
    ]
    figures += answers.figures(with_moments=reference.bundle.dims.has_offsets)
    return Agreement(figures=tuple(figures), videos=tuple(names), clips=clips, queries=len(queries))


def _encoded(grounder: Grounder, video: Source) -> EncodedVideo:
    fps = grounder.bundle.fps if isinstance(video, np.ndarray) else None
    return grounder.encode(video, source_fps=fps)


def failures(figures: Sequence[Figure]) -> str:
    """Return one clause that names every figure beyond its limit."""
    return ", ".join(
        f"{x.name} {x.value:.3g} (at {'least' if x.at_least else 'most'} {x.limit:g})"
        for x in figures
        if not x.passed
    )


def relative_error(got: Floats, want: Floats) -> float:
    """Return ‖got - want‖ / ‖want - mean(want)‖, the mean being taken over all but the last axis.

    It is infinite where `got` is not finite, or where `want` is the same everywhere and `got`
    differs.
    """
    error = _Error()
    error.add(got, want)
    return error.value


class _Error:
    """Adds up the relative error of several arrays, each about its own mean."""

    def __init__(self) -> None:
        self._difference = 0.0
        self._spread = 0.0

    def add(self, got: Floats, want: Floats) -> None:
        rows = want.reshape(-1, want.shape[-1]).astype(np.float64)
        self._difference += float(np.square(got.reshape(rows.shape) - rows).sum())
        self._spread += float(np.square(rows - rows.mean(axis=0)).sum())

    @property
    def value(self) -> float:
        if not self._difference:
            return 0.0
        if not np.isfinite(self._difference) or not self._spread:
            return _LARGEST
        return float(np.sqrt(self._difference / self._spread))


# JSON has no infinity.
_LARGEST = 1e300


class _Answers:
    """Gathers the agreement of predictions."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._first: list[float] = []
        self._ranks: list[float] = []
        self._correlations: list[float] = []
        self._saliency_error = 0.0

    def add(self, got: Prediction, want: Prediction) -> None:
        self._first.append(_first_iou(got, want, self._limits.tie))
        self._ranks.append(_rank_agreement(got.boundaries, want.boundaries))
        self._correlations.append(_correlation(got.saliency, want.saliency))
        off = float(np.abs(got.saliency - want.saliency).max(initial=0.0))
        self._saliency_error = max(self._saliency_error, off if np.isfinite(off) else _LARGEST)

    def figures(self, *, with_moments: bool) -> list[Figure]:
        limits = self._limits
        moments = [
            _at_least("IoU of the first moment", _mean(self._first), limits.first_moment_iou),
            _at_least("rank agreement", _mean(self._ranks), limits.rank_agreement),
        ]
        return [
            *(moments if with_moments else ()),
            _at_least(
                "saliency correlation", _mean(self._correlations), limits.saliency_correlation
            ),
            _at_most("saliency error", self._saliency_error, limits.saliency_error),
        ]


def _query_tokens(grounder: Grounder, queries: Sequence[str]) -> list[Floats]:
    """Return the mapped tokens q (K, L, D) of each query."""
    from r2rt.grounding.tokenizer import Tokenizer

    bundle = grounder.bundle
    tokenizer = Tokenizer.of(bundle)
    found = []
    for query in queries:
        ids = tokenizer.encode(query).ids[None]
        mask = np.ones(ids.shape, dtype=np.float32)
        out = grounder.engine.run(TEXT_ENCODER, {"token_ids": ids, "query_mask": mask})
        found.append(out["q"][0])
    return found


def _first_iou(got: Prediction, want: Prediction, tie: float) -> float:
    """Return the IoU of the first moment with whichever of `want`'s comes as good as first."""
    if not got.moments or not want.moments:
        return float(not got.moments and not want.moments)
    best = want.moments[0].score
    firsts = [(x.start_s, x.end_s) for x in want.moments if best - x.score < tie]
    first = np.array([[got.moments[0].start_s, got.moments[0].end_s]])
    return float(interval_iou(first, np.array(firsts)).max())


def _rank_agreement(got: NDArray[np.float64], want: NDArray[np.float64]) -> float:
    """Return Spearman's correlation of the scores of boundaries (M, 3) that are in both lists.

    Two boundaries are the same where each is the other's closest, by IoU of at least a half.
    """
    if not len(got) or not len(want):
        return float(len(got) == len(want))
    iou = interval_iou(got[:, :2], want[:, :2])
    closest = iou.argmax(axis=1)
    rows = np.arange(len(got))
    mutual = (iou.argmax(axis=0)[closest] == rows) & (iou[rows, closest] >= 0.5)
    if mutual.sum() < 2:
        return float(len(got) == len(want) == mutual.sum())
    return _correlation(_ranks(got[mutual, 2]), _ranks(want[closest[mutual], 2]))


def _ranks(values: Floats) -> Floats:
    """Return each value's rank; equal values share the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[group], dtype=np.float64)


def _correlation(a: Floats, b: Floats) -> float:
    """Return Pearson's correlation; 1 where neither varies, 0 where one alone does or is broken."""
    a, b = (x.astype(np.float64) - x.mean(dtype=np.float64) for x in (a, b))
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if not np.isfinite(norms).all():
        return 0.0
    if min(norms) < 1e-6:
        return float(max(norms) < 1e-6)
    return float(a @ b / (norms[0] * norms[1]))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _at_most(name: str, value: float, limit: float) -> Figure:
    return Figure(name=name, value=value, limit=limit, at_least=False, passed=value <= limit)


def _at_least(name: str, value: float, limit: float) -> Figure:
    return Figure(name=name, value=value, limit=limit, at_least=True, passed=value >= limit)
