"""Saliency of a video for a query or a fallback, and spans of clips as moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2rt.grounding.encoded import EncodedVideo
from r2rt.grounding.prediction import Moment, Prediction, Timings
from r2rt.selection.shots import clip_features

if TYPE_CHECKING:
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.windows import WindowLength

__all__ = ["TYPICAL", "Fallback", "centrality", "clips_as_moment", "fallback_query", "saliency_of"]

Floats = NDArray[np.float64]

TYPICAL = "typical of the video"
# Names of recipes end in the domain's short form; the models were asked these words in training.
_YOUTUBE_WORDS = {
    "dog": "dog",
    "gym": "gymnastics",
    "par": "parkour",
    "ska": "skating",
    "ski": "skiing",
    "sur": "surfing",
}
# Quantiles that become 0 and 1, so that a black clip or two do not flatten all others.
_LOW, _HIGH = 0.05, 0.95
# Tokens of one frame differ by their last digits if they were encoded in other batches.
_ALIKE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """What is used in place of a query that was not given.

    Attributes:
        query: the sentence that is asked; None if clips are scored by centrality fallback.
        reason: why, as a clause for people.
    """

    query: str | None
    reason: str


def saliency_of(
    grounder: Grounder,
    video: EncodedVideo,
    query: str | None = None,
    *,
    window: WindowLength = "auto",
    overlap: float | None = None,
) -> tuple[Prediction, Fallback | None]:
    """Return (prediction, fallback): the prediction for `query`, or for a fallback if it is None.

    Args:
        grounder: the session.
        video: encoded by its model.
        query: a sentence; None uses a fallback, which is returned, too.
        window: see `Grounder.ground`.
        overlap: see `Grounder.ground`.

    Raises:
        QueryError, ModelMismatchError: see `Grounder.ground`.
    """
    if query is not None:
        return grounder.ground(video, query, window=window, overlap=overlap), None
    fallback = fallback_query(grounder, video)
    if fallback.query is not None:
        return grounder.ground(video, fallback.query, window=window, overlap=overlap), fallback
    grounder.check_encoded(video)
    saliency = centrality(clip_features(video, grounder.bundle.dims))
    answer = Prediction(
        query=TYPICAL,
        moments=(),
        saliency=saliency.astype(np.float32),
        clip_starts_s=video.clip_starts_s,
        boundaries=np.empty((0, 3)),
        query_truncated=False,
        video=video.source,
        duration_s=video.duration_s,
        fps=video.fps,
        sampling=video.sampling,
        model=grounder.bundle.manifest.name,
        timings=Timings(encode_s=0.0, text_s=0.0, ground_s=0.0),
        departures=video.departures,
    )
    return answer, fallback


def fallback_query(grounder: Grounder, video: EncodedVideo) -> Fallback:
    """Return the fallback for a query: one of the model's training data, or centrality."""
    recipe = grounder.bundle.manifest.provenance.recipe or ""
    data_set, _, domain = recipe.partition("_")
    if data_set == "youtube" and domain in _YOUTUBE_WORDS:
        word = _YOUTUBE_WORDS[domain]
        return Fallback(query=word, reason=f"asked {word!r}, the domain that the model is of")
    if data_set == "tvsum":
        title = _title(video.source)
        if title is not None:
            return Fallback(query=title, reason=f"asked {title!r}, the video's title")
    return Fallback(query=None, reason="clips are scored by how typical they are of the video")


def centrality(features: Floats) -> Floats:
    """Return (T,) in [0, 1]: how like the video's other clips each clip is, in linear time.

    It is the mean cosine to all others, stretched so that its 5th and 95th percentile become 0 and
    1, or its least and greatest value where these are equal; 0.5 where all clips are alike.

    Args:
        features: (T, D) unit vectors.
    """
    total = features.sum(axis=0)
    own = np.square(features).sum(axis=1)
    mean = (features @ total - own) / max(len(features) - 1, 1)
    low, high = np.quantile(mean, (_LOW, _HIGH))
    if high - low < _ALIKE:
        low, high = mean.min(), mean.max()
    if high - low < _ALIKE:
        return np.full(len(features), 0.5)
    return np.asarray(((mean - low) / (high - low)).clip(0.0, 1.0))


def clips_as_moment(answer: Prediction, start_clip: int, end_clip: int) -> Moment:
    """Return clips from `start_clip` up to `end_clip` as a moment.

    Its score is their mean saliency. It ends with the video where the last clip is not whole.
    """
    begin_s = float(answer.clip_starts_s[0])
    rate = float(answer.fps)
    return Moment(
        start_s=begin_s + start_clip / rate,
        end_s=begin_s + min(end_clip / rate, answer.duration_s),
        score=float(answer.saliency[start_clip:end_clip].mean(dtype=np.float64).clip(0.0, 1.0)),
    )


def _title(source: str) -> str | None:
    """Return the title in a file's metadata; None if there is no title or no file."""
    from pathlib import Path

    import av

    from r2rt.video.container import metadata_text, open_input

    if not Path(source).is_file():
        return None
    try:
        with open_input(source) as container:
            title = " ".join(metadata_text(container.metadata.get("title", "")).split())
    except (OSError, ValueError, av.FFmpegError):
        return None
    return title or None
