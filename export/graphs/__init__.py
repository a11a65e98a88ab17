"""The four graphs as PyTorch modules, arranged for export: what `r2rt.model.contract` defines.

They compute what `training.model` computes, with three rearrangements that change rounding alone:
v_map is folded into the query (`text`), the part of the video map that does not depend on the
number of clips is done once a frame (`video`), and all layers are pooled at once (`grounder`).
"""

from __future__ import annotations

from export.graphs.grounder import Grounder, GrounderHeads
from export.graphs.text import QueryTokens, TextEncoder
from export.graphs.video import FrameTokens, VideoEncoder, VideoFinalizer

__all__ = [
    "FrameTokens",
    "Grounder",
    "GrounderHeads",
    "QueryTokens",
    "TextEncoder",
    "VideoEncoder",
    "VideoFinalizer",
]
