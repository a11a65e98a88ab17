"""The benchmarks, and which metrics each of them is evaluated by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from training.metrics import (
    Annotation,
    DomainFigures,
    EvaluationInputError,
    HighlightFigures,
    MomentFigures,
    Prediction,
    highlight_metrics,
    moment_metrics,
    published_domains,
    published_form,
    tvsum_metrics,
    youtube_metrics,
)
from training.metrics.published import Figures

__all__ = ["BENCHMARKS", "Benchmark", "Evaluation", "evaluate"]

DomainMetrics: TypeAlias = Callable[[Sequence[Prediction], Sequence[Annotation]], DomainFigures]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What a benchmark is evaluated by.

    Attributes:
        name: as on the command line.
        title: as people write it.
        labels: the metric, where clips alone are labelled and no moments.
        clips_vary: whether a clip's length changes from video to video, so that a model's
            saliency, whose clips do not, is read at the middles of the labelled ones.
        ratings_optional: whether highlights that cannot be evaluated are left out, not refused:
            what can be trained on need not have them as QVHighlights does.
    """

    name: str
    title: str
    labels: DomainMetrics | None = None
    clips_vary: bool = False
    ratings_optional: bool = False


BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        benchmark.name: benchmark
        for benchmark in (
            Benchmark(name="qvhighlights", title="QVHighlights"),
            Benchmark(name="charades", title="Charades-STA"),
            Benchmark(name="tacos", title="TACoS"),
            Benchmark(name="ego4d", title="Ego4D-NLQ"),
            Benchmark(name="tvsum", title="TVSum", labels=tvsum_metrics),
            Benchmark(
                name="youtube", title="YouTube Highlights", labels=youtube_metrics, clips_vary=True
            ),
            Benchmark(name="own", title="own annotations", ratings_optional=True),
        )
    }
)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything computed of one set of predictions.

    Attributes:
        num_queries: queries evaluated.
        moments: by length of the moment; None where there are labels alone.
        highlights: by the score from which a clip is positive; None without saliency.
        domains: of TVSum and YouTube Highlights.
    """

    num_queries: int
    moments: dict[str, MomentFigures] | None = None
    highlights: dict[str, HighlightFigures] | None = None
    domains: DomainFigures | None = None

    def figures(self) -> dict[str, Figures] | dict[str, float]:
        """Return what the authors' evaluation would have written."""
        if self.domains is not None:
            return published_domains(self.domains)
        return published_form(self.moments, self.highlights)

    def headline(self) -> Figures:
        """Return the figures of a table."""
        if self.domains is not None:
            return dict(published_domains(self.domains))
        return published_form(self.moments, self.highlights)["brief"]


def evaluate(
    benchmark: Benchmark, predictions: Sequence[Prediction], annotations: Sequence[Annotation]
) -> Evaluation:
    """Compute the benchmark's metrics; highlights where both sides have saliency.

    Raises:
        EvaluationInputError: see the metrics; or some queries have saliency and others none.
    """
    if benchmark.labels is not None:
        domains = benchmark.labels(predictions, annotations)
        return Evaluation(num_queries=len(annotations), domains=domains)
    annotated = _all_or_none(
        [(line.qid, line.saliency_scores) for line in annotations], "`saliency_scores`"
    )
    predicted = _all_or_none(
        [(line.qid, line.pred_saliency_scores) for line in predictions], "`pred_saliency_scores`"
    )
    both = annotated and predicted
    return Evaluation(
        num_queries=len(annotations),
        moments=moment_metrics(predictions, annotations),
        highlights=highlight_metrics(predictions, annotations) if both else None,
    )


def _all_or_none(values: Sequence[tuple[object, object]], name: str) -> bool:
    lacking = [qid for qid, value in values if value is None]
    if lacking and len(lacking) < len(values):
        raise EvaluationInputError(
            f"{len(lacking)} of {len(values)} queries have no {name} (the first is qid "
            f"{lacking[0]!r}); expected them in all lines or in none"
        )
    return not lacking
