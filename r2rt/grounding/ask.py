"""Asking the grounder graph about every window, and one prediction from what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from r2rt.engines import Engine
from r2rt.errors import BundleDamagedError
from r2rt.grounding.encoded import EncodedVideo
from r2rt.grounding.finalizer import Finalizer
from r2rt.grounding.moments import boundaries_from_points
from r2rt.grounding.prediction import Moment, Prediction, Timings
from r2rt.grounding.presence import confidence, presence_statistics
from r2rt.grounding.texts import TextFeatures, batches
from r2rt.grounding.vocabulary import knows_any, unknown_words
from r2rt.grounding.windows import Window, mean_saliency, merge_moments
from r2rt.model.bundle import Bundle
from r2rt.model.contract import GROUNDER
from r2rt.model.manifest import Nms

__all__ = ["Answer", "ask"]

Floats = NDArray[np.float32]

# Scratch memory that one call of the graph may take.
_SCRATCH_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Answer:
    """The graph's outputs for one query in every window.

    Attributes:
        text: the query.
        boundaries: (M, 3) a window, in seconds from the video's start, and scores.
        saliency: (T,) a window.
        statistics: (S,) a window; see `r2rt.grounding.presence`.
    """

    text: TextFeatures
    boundaries: list[NDArray[np.float64]] = field(default_factory=list)
    saliency: list[Floats] = field(default_factory=list)
    statistics: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, bundle: Bundle, window: Window, out: dict[str, Floats]) -> None:
        """Add the outputs for the next window."""
        dims, manifest, fps = bundle.dims, bundle.manifest, bundle.fps
        boundaries = np.empty((0, 3))
        if dims.has_offsets:
            boundaries = boundaries_from_points(
                out["class_logits"],
                out["offsets"],
                num_clips=window.num_clips,
                strides=dims.strides,
                fps=fps,
                max_moments=manifest.max_moments,
            )
            boundaries[:, :2] += window.start_clip / float(fps)
        self.boundaries.append(boundaries)
        self.saliency.append(out["saliency"])
        self.statistics.append(
            presence_statistics(
                out["class_logits"], out["saliency"], dims, merged=manifest.merge_cls_sal
            )
        )

    def prediction(
        self,
        bundle: Bundle,
        encoded: EncodedVideo,
        windows: Sequence[Window],
        nms: Nms | None,
        timings: Timings,
    ) -> Prediction:
        """Return one prediction from all windows.

        Args:
            bundle: the model.
            encoded: the video.
            windows: those that were asked about, in order.
            nms: suppression of overlapping moments; None for none.
            timings: seconds a stage.
        """
        manifest, rate = bundle.manifest, float(encoded.fps)
        spans_s = np.array([(x.start_clip, x.end_clip) for x in windows]) / rate
        spans_s[-1, 1] = encoded.duration_s  # the last clip need not be whole
        rows = merge_moments(
            self.boundaries, spans_s, clip_s=1 / rate, unit_s=manifest.unit_s, nms=nms
        )
        boundaries = np.concatenate(self.boundaries)
        boundaries = boundaries[np.argsort(-boundaries[:, 2], kind="stable")]
        shift = np.array([encoded.start_s, encoded.start_s, 0.0])
        statistics = np.stack(self.statistics)
        present: bool | None = None
        sure: float | None = None
        if not knows_any(self.text.query, manifest.known_words):
            present, sure = False, 0.0
        elif manifest.presence is not None:
            present, sure = confidence(manifest.presence, statistics)
        return Prediction(
            query=self.text.query,
            moments=tuple(
                Moment(start_s=start, end_s=end, score=score)
                for start, end, score in (rows + shift).tolist()
            ),
            saliency=mean_saliency(windows, self.saliency),
            clip_starts_s=encoded.clip_starts_s,
            boundaries=boundaries + shift,
            query_truncated=self.text.truncated,
            video=encoded.source,
            duration_s=encoded.duration_s,
            fps=encoded.fps,
            sampling=encoded.sampling,
            departures=encoded.departures,
            model=manifest.name,
            timings=timings,
            windows_s=spans_s + encoded.start_s,
            present=present,
            presence_score=sure,
            presence_statistics=statistics,
            unknown_words=unknown_words(self.text.query, manifest.known_words),
        )


def ask(
    bundle: Bundle,
    engine: Engine,
    finalizer: Finalizer,
    encoded: EncodedVideo,
    windows: Sequence[Window],
    texts: Sequence[TextFeatures],
) -> list[Answer]:
    """Return the answer to each query, in order.

    The graph takes one video and many queries, so a window is finalised and asked everything before
    the next one is.

    Args:
        bundle: the model.
        engine: runs its graphs.
        finalizer: finalises windows; it belongs to the calling thread.
        encoded: the video.
        windows: its windows, all of one length.
        texts: the queries.

    Raises:
        BundleDamagedError: an output is not a finite number.
    """
    dims = bundle.dims
    longest = max(text.q.shape[1] for text in texts)
    # Attention weights and pooled rows, both also once transposed or masked.
    clips = windows[0].num_clips
    scratch = 2 * 4 * clips * dims.layers * longest * (dims.patches + dims.width)
    inputs = batches(texts, max(1, _SCRATCH_BYTES // scratch))
    answers = [Answer(text) for text in texts]
    try:
        for window in windows:
            video = finalizer.window(encoded, window)
            waiting = iter(answers)
            for batch in inputs:
                out = engine.run(GROUNDER, {**video, **batch})
                _check_numbers(bundle, out)
                for index in range(len(batch["pooled"])):
                    next(waiting).add(bundle, window, {name: out[name][index] for name in out})
    finally:
        finalizer.end_round()
    return answers


def _check_numbers(bundle: Bundle, out: dict[str, Floats]) -> None:
    wrong = [name for name, values in out.items() if not np.isfinite(values).all()]
    if wrong:
        raise BundleDamagedError(
            f"{bundle.path}: its {' and '.join(wrong)} are not finite numbers, so its "
            "weights or the encoded video are damaged; fetch or export the bundle again"
        )
