"""What grounding answers: moments, saliency, and how they were come by."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from r2rt.files import as_text
from r2rt.video.departures import Departures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from r2rt.video.api import Sampling

__all__ = ["SCHEMA_VERSION", "Moment", "Prediction", "Timings"]

# Of the JSON document that `r2rt/outputs/schema/answers.schema.json` describes. A new field keeps
# the number; a field that goes or changes its meaning raises it.
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A span of the video, half open, and how well the query fits it.

    Attributes:
        start_s: where it starts, in seconds on the source's clock.
        end_s: where it ends; `start_s < end_s`.
        score: in [0, 1], comparable between answers to the same sentence by the same model.
    """

    start_s: float
    end_s: float
    score: float


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Wall-clock seconds of the stages that led to a prediction.

    `encode_s` is decoding and encoding of the video, 0 if it was encoded before; `text_s` and
    `ground_s` are of the whole batch of queries that was asked together.
    """

    encode_s: float
    text_s: float
    ground_s: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The answer to one query.

    Attributes:
        query: the sentence that was asked.
        moments: best first, after suppression; empty where the model predicts saliency alone.
        saliency: (T,) float32, one value a clip.
        clip_starts_s: (T,) float64, where each clip starts, in seconds on the source's clock.
        boundaries: (M, 3) float64, raw start s, end s and score, best first, before clamping,
            rounding and suppression, on the source's clock; those of all windows.
        query_truncated: whether the query was longer than the model reads.
        video: name of the source.
        duration_s: length of the part of the source that was read, in seconds.
        fps: clips a second.
        sampling: how frames were chosen.
        departures: how reading the frames departed from exact.
        model: name of the bundle.
        timings: seconds a stage.
        windows_s: (W, 2) float64, where each window starts and ends that was grounded, on the
            source's clock; a single one where the video was grounded as a whole.
        present: whether the query is in the video at all; None if the model is not calibrated for
            that. False also for a query without any word that the model knows. Moments are given
            in any case.
        presence_score: confidence in that, in [0, 1]: the share of absent queries whose statistic
            would be lower; None if the model is not calibrated.
        presence_statistics: (W, S) float64, a row a window, in the order of
            `r2rt.grounding.presence.STATISTICS`.
        unknown_words: words of the query that the model has not read in training, each once; empty
            for a model that does not list its words. What they mean does not count.
    """

    query: str
    moments: tuple[Moment, ...]
    saliency: NDArray[np.float32] = field(repr=False)
    clip_starts_s: NDArray[np.float64] = field(repr=False)
    boundaries: NDArray[np.float64] = field(repr=False)
    query_truncated: bool
    video: str
    duration_s: float
    fps: Fraction
    sampling: Sampling
    model: str
    timings: Timings
    windows_s: NDArray[np.float64] = field(repr=False, default_factory=lambda: _no_rows(2))
    present: bool | None = None
    presence_score: float | None = None
    presence_statistics: NDArray[np.float64] = field(
        repr=False, default_factory=lambda: _no_rows(4)
    )
    departures: Departures = field(default_factory=Departures)
    unknown_words: tuple[str, ...] = ()

    def best(self, top_k: int | None = None, min_score: float = 0.0) -> Prediction:
        """Return the answer with the first `top_k` of the moments that score `min_score` or more.

        None keeps all of these.
        """
        moments = tuple(moment for moment in self.moments if moment.score >= min_score)
        return dataclasses.replace(self, moments=moments[:top_k])

    def to_dict(self, qid: int | str = 1) -> dict[str, Any]:
        """Return the document of the `json` format with this answer as its only result.

        It holds plain types alone; its schema is `r2rt/outputs/schema/answers.schema.json`.

        Args:
            qid: the query's id.
        """
        import msgspec

        document: dict[str, Any] = msgspec.json.decode(self._encoded(qid))
        return document

    def to_json(self, qid: int | str = 1) -> str:
        """Return `to_dict` as JSON text, indented by two spaces."""
        import msgspec

        return msgspec.json.format(self._encoded(qid), indent=2).decode()

    def result(self, qid: int | str) -> dict[str, Any]:
        """Return the part of the document that answers the query."""
        return {
            "qid": qid,
            "query": self.query,
            "query_truncated": self.query_truncated,
            "unknown_words": self.unknown_words,
            "present": self.present,
            "presence_score": self.presence_score,
            "moments": self.moments,
            "saliency": [
                {"start_s": start, "score": round(score, 6)}
                for start, score in zip(
                    self.clip_starts_s.tolist(), self.saliency.tolist(), strict=True
                )
            ],
        }

    def _encoded(self, qid: int | str) -> bytes:
        import msgspec

        document = {
            "schema_version": SCHEMA_VERSION,
            "video": as_text(self.video),
            "duration_s": self.duration_s,
            "fps": str(self.fps),
            "sampling": self.sampling,
            "departures": self.departures.as_dict(),
            "model": self.model,
            "timings": self.timings,
            "results": [self.result(qid)],
        }
        return msgspec.json.encode(document)


def _no_rows(columns: int) -> NDArray[np.float64]:
    import numpy as np

    return np.empty((0, columns))
