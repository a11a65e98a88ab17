"""The six benchmarks' metrics, figure for figure those of the authors' evaluation; numpy alone.

| benchmark | function |
|---|---|
| QVHighlights, Charades-STA, TACoS, Ego4D-NLQ, anyone's own: moments | `moment_metrics` |
| QVHighlights: saliency | `highlight_metrics` |
| TVSum | `tvsum_metrics` |
| YouTube Highlights | `youtube_metrics` |

All take what was predicted and what was annotated, in any order, matched by `qid`; `published_form`
names and rounds their figures as the authors print them.
"""

from __future__ import annotations

from training.metrics.errors import EvaluationInputError
from training.metrics.highlights import HighlightFigures, highlight_metrics
from training.metrics.moments import AP_IOUS, RECALL_IOUS, MomentFigures, moment_metrics
from training.metrics.published import published_domains, published_form
from training.metrics.records import Annotation, Prediction, Qid, paired
from training.metrics.spans import temporal_iou
from training.metrics.video_highlights import DomainFigures, tvsum_metrics, youtube_metrics

__all__ = [
    "AP_IOUS",
    "RECALL_IOUS",
    "Annotation",
    "DomainFigures",
    "EvaluationInputError",
    "HighlightFigures",
    "MomentFigures",
    "Prediction",
    "Qid",
    "highlight_metrics",
    "moment_metrics",
    "paired",
    "published_domains",
    "published_form",
    "temporal_iou",
    "tvsum_metrics",
    "youtube_metrics",
]
