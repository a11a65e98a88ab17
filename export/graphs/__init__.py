"""The four graphs as PyTorch modules, arranged for export: what `r2rt.contract` defines.

They compute what `training.model` computes, with three rearrangements that change rounding alone:
v_map is folded into the query (`text`), what of the video map does not depend on the number of clips
is done once a frame (`video`), and the pooling of all layers is one product (`grounder`).
"""

from __future__ import annotations

from export.graphs.grounder import Grounder
from export.graphs.text import QueryTokens, TextEncoder
from export.graphs.video import FrameTokens, VideoEncoder, VideoFinalizer

__all__ = [
    "FrameTokens",
    "Grounder",
    "QueryTokens",
    "TextEncoder",
    "VideoEncoder",
    "VideoFinalizer",
]
