"""Validation by the benchmarks' own metrics: answers to a split, held against its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from r2rt.grounding.moments import interval_iou, suppress
from r2rt.model.manifest import Nms
from training.data.dataset import GroundingDataset
from training.data.sample import Sample, collate_inputs
from training.errors import TrainingError
from training.evaluation.benchmarks import Benchmark, evaluate
from training.metrics import Annotation, Prediction
from training.model import Padding, R2Tuning, decode_boundaries
from training.recipes import Recipe
from training.trainer.order import Samples

__all__ = ["MetricsValidation", "labels_of", "predict", "published_moments"]

_BATCH_SIZE = 16

Floats = NDArray[np.float64]


class MetricsValidation:
    """Gives the headline figures of a benchmark; `monitor` names the one that a run is chosen by.

    Args:
        samples: the split's samples.
        annotations: its labels; samples without are not evaluated.
        benchmark: what it is evaluated by.
        recipe: rounding and suppression of moments.
    """

    def __init__(
        self,
        samples: Samples,
        annotations: Sequence[Annotation],
        benchmark: Benchmark,
        recipe: Recipe,
    ) -> None:
        self._samples = samples
        self._annotations = annotations
        self._benchmark = benchmark
        self._recipe = recipe
        self.monitor = "all" if benchmark.labels is not None else "MR-full-mAP"

    def __call__(self, model: R2Tuning) -> Mapping[str, float]:
        """Answer every query and evaluate; the monitored figure comes first."""
        labelled = {annotation.qid for annotation in self._annotations}
        answers = predict(model, self._samples, self._recipe)
        return self._figures([answer for answer in answers if answer.qid in labelled])

    def check_monitor(self, name: str) -> None:
        """Refuse a figure that there will be none of, before an epoch is trained for it.

        Raises:
            TrainingError: there is no such figure; the message names those that there are.
        """
        figures = self._figures(
            [
                Prediction(
                    qid=annotation.qid,
                    pred_relevant_windows=[],
                    pred_saliency_scores=[0.0] * len(annotation.label or (0,)),
                )
                for annotation in self._annotations
            ]
        )
        if name not in figures:
            raise TrainingError(
                f"the validation gives no figure {name!r}; monitor one of {', '.join(figures)}"
            )

    def _figures(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        headline = evaluate(self._benchmark, predictions, self._annotations).headline()
        figures = {name: value for name, value in headline.items() if isinstance(value, float)}
        return {self.monitor: figures[self.monitor]} | figures


def labels_of(dataset: GroundingDataset) -> list[Annotation]:
    """Return a data set's labels as the metrics read them, of the queries that have some.

    There are no ratings of highlights by TVSum's and QVHighlights' annotators, whose own scores
    their metrics want: read them from the annotation files.
    """
    found = []
    for annotation, duration_s in zip(dataset.annotations, dataset.durations_s, strict=True):
        label, saliency = None, annotation.saliency
        if annotation.labels == "youtube" and saliency is not None:
            # -1, 0 or 1 a clip, of which training makes 0 to 1.
            label = [[float(2 * value - 1)] for value in saliency]
        windows = [(start, end) for start, end in annotation.moments_s or ()]
        if windows or label:
            found.append(
                Annotation(
                    qid=annotation.qid,
                    vid=annotation.vid,
                    query=annotation.query,
                    duration=duration_s,
                    relevant_windows=windows or None,
                    label=label,
                    domain=annotation.domain,
                )
            )
    return found


@torch.no_grad()
def predict(model: R2Tuning, samples: Samples, recipe: Recipe) -> list[Prediction]:
    """Return the model's answers as the authors evaluate them, in the samples' order.

    A model whose `padding` is shared answers one sample at a time, so that no other one's length
    changes an answer.

    Args:
        model: in evaluation mode, on any device.
        samples: what is asked.
        recipe: rounding and suppression of moments.
    """
    found: list[Prediction] = []
    size = _BATCH_SIZE if model.config.padding is Padding.EXACT else 1
    for start in range(0, len(samples), size):
        stop = min(start + size, len(samples))
        found += _predict_batch(model, [samples[index] for index in range(start, stop)], recipe)
    return found


def published_moments(
    boundaries: Floats, *, duration_s: float, unit_s: float | None, nms: Nms | None
) -> Floats:
    """Return moments (N, 3) from raw boundaries (N, 3) as the authors' evaluation does, best first.

    It differs from the runtime's `r2rt.grounding.moments.postprocess` in three ways, which change
    figures and are of no use to people: suppressed moments stay, with a score of 0; rounding may
    move an end beyond the video's; empty moments stay.

    Args:
        boundaries: start s, end s, score, float64.
        duration_s: length of the video in seconds.
        unit_s: boundaries are rounded to multiples of this; None leaves them.
        nms: suppression; None for none, and the order stays.
    """
    rows = boundaries.copy()
    inside = rows[:, 1] < duration_s
    rows[:, :2] = rows[:, :2].clip(0.0, duration_s)
    if unit_s:
        rows[inside, :2] = np.round(rows[inside, :2] / unit_s) * unit_s
    if nms is None:
        return rows
    if nms.kind != "normal":
        rows = suppress(rows, nms)
        return rows[np.argsort(-rows[:, 2], kind="stable")]
    rows = rows[np.argsort(-rows[:, 2], kind="stable")]
    overlaps = interval_iou(rows[:, :2], rows[:, :2]) >= nms.iou_threshold
    kept = np.ones(len(rows), bool)
    for index in range(len(rows)):
        if kept[index]:
            kept[index + 1 :] &= ~overlaps[index, index + 1 :]
    rows[~kept, 2] = 0.0
    return np.concatenate((rows[kept], rows[~kept]))


def _predict_batch(model: R2Tuning, batch: Sequence[Sample], recipe: Recipe) -> list[Prediction]:
    device = next(model.parameters()).device
    inputs = collate_inputs(batch).to(device, dtype=torch.float32)
    output = model(inputs.video, inputs.query, inputs.video_mask, inputs.query_mask)
    # The clip rate is applied to each video by itself: YouTube's differ.
    rows = decode_boundaries(output, fps=1.0) if output.offsets is not None else None
    predictions = []
    for index, sample in enumerate(batch):
        windows = None
        if rows is not None:
            boundaries = rows[index].double().cpu().numpy()
            boundaries[:, :2] /= sample.fps
            moments = published_moments(
                boundaries, duration_s=sample.duration_s, unit_s=recipe.unit_s, nms=recipe.nms
            )
            windows = [(float(s), float(e), float(score)) for s, e, score in moments]
        saliency = output.saliency[index, : len(sample.video)].double().cpu().numpy()
        predictions.append(
            Prediction(
                qid=sample.qid,
                query=sample.text,
                vid=sample.vid,
                pred_relevant_windows=windows,
                pred_saliency_scores=saliency.tolist(),
            )
        )
    return predictions
