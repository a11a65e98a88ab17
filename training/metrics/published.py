"""Figures under the names, and rounded to the decimals, of the authors' evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.metrics.highlights import HighlightFigures
from training.metrics.moments import AP_IOUS, RECALL_IOUS, MomentFigures
from training.metrics.video_highlights import DomainFigures

__all__ = ["Figures", "published_domains", "published_form"]

Figures: TypeAlias = "dict[str, float | Figures]"

_BRIEF_RECALL_IOUS = (0.3, 0.5, 0.7)
_BRIEF_AP_IOUS = (0.5, 0.75)


def published_form(
    moments: Mapping[str, MomentFigures] | None,
    highlights: Mapping[str, HighlightFigures] | None = None,
) -> dict[str, Figures]:
    """Return `brief`, then the full lists by length and by saliency, in percent of two decimals."""
    figures: dict[str, Figures] = {"brief": {}}
    brief = figures["brief"]
    if moments is not None:
        brief.update(_brief_moments(moments))
        figures.update({name: _moment_lists(each) for name, each in moments.items()})
    for name, each in (highlights or {}).items():
        pair: Figures = {
            "mAP": round(each.mean_average_precision, 2),
            "Hit1": round(each.hit_at_1, 2),
        }
        brief.update({f"HL-min-{name}-{key}": value for key, value in pair.items()})
        figures[f"HL-min-{name}"] = {f"HL-{key}": value for key, value in pair.items()}
    return figures


def published_domains(figures: DomainFigures) -> dict[str, float]:
    """Return `all` and each domain, fractions of five decimals."""
    rounded = {name: round(value, 5) for name, value in sorted(figures.domains.items())}
    return {"all": round(figures.overall, 5), **rounded}


def _brief_moments(moments: Mapping[str, MomentFigures]) -> Figures:
    full = moments["full"]
    brief: Figures = {}
    for k, values in full.recall.items():
        for at in _BRIEF_RECALL_IOUS:
            brief[f"MR-full-R{k}@{at}"] = round(float(values[RECALL_IOUS.index(at)]), 2)
    brief["MR-full-mAP"] = round(full.mean_average_precision, 2)
    for at in _BRIEF_AP_IOUS:
        value = full.average_precision[AP_IOUS.index(at)]
        brief[f"MR-full-mAP@{at}"] = round(float(value), 2)
    brief["MR-full-mIoU"] = round(full.mean_iou, 2)
    for name in ("long", "middle", "short"):
        brief[f"MR-{name}-mAP"] = round(moments[name].mean_average_precision, 2)
        brief[f"MR-{name}-mIoU"] = round(moments[name].mean_iou, 2)
    return brief


def _moment_lists(figures: MomentFigures) -> Figures:
    precision = _by_iou(AP_IOUS, figures.average_precision)
    precision["average"] = round(figures.mean_average_precision, 2)
    lists: Figures = {"MR-mIoU": round(figures.mean_iou, 2), "MR-mAP": precision}
    for k, values in figures.recall.items():
        lists[f"MR-R{k}"] = _by_iou(RECALL_IOUS, values)
    return lists


def _by_iou(ious: tuple[float, ...], values: NDArray[np.float64]) -> Figures:
    return {str(at): round(float(value), 2) for at, value in zip(ious, values, strict=True)}
