"""r2rt finds moments in videos from a sentence.

    from r2rt import Grounder

    grounder = Grounder.load("qvhighlights")
    video = grounder.encode("video.mp4")
    for moment in grounder.ground(video, "a dog catches a frisbee").moments:
        print(moment.start_s, moment.end_s, moment.score)

Names below are imported when they are first used, so that `import r2rt` is immediate.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r2rt.archive.library import Archive
    from r2rt.archive.result import Hit, SearchResult
    from r2rt.errors import R2rtError
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.many import find_videos, ground_many
    from r2rt.grounding.prediction import Moment, Prediction, Timings
    from r2rt.grounding.stream import Stream
    from r2rt.model.bundle import Bundle
    from r2rt.model.manifest import Nms
    from r2rt.selection.highlights import find_highlights
    from r2rt.selection.sequences import find_sequences
    from r2rt.selection.summary import summarize

# ONNX Runtime sends usage reports to its maker and keeps a device id in the user's cache folder,
# unless this is set before its first session. Who wants that sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Archive",
    "Bundle",
    "EncodedVideo",
    "Grounder",
    "Hit",
    "Moment",
    "Nms",
    "Prediction",
    "R2rtError",
    "SearchResult",
    "Stream",
    "Timings",
    "find_highlights",
    "find_sequences",
    "find_videos",
    "ground_many",
    "summarize",
]

_HOMES = {
    "Archive": "r2rt.archive.library",
    "Bundle": "r2rt.model.bundle",
    "EncodedVideo": "r2rt.grounding.encoded",
    "Grounder": "r2rt.grounding.grounder",
    "Hit": "r2rt.archive.result",
    "Moment": "r2rt.grounding.prediction",
    "Nms": "r2rt.model.manifest",
    "Prediction": "r2rt.grounding.prediction",
    "R2rtError": "r2rt.errors",
    "SearchResult": "r2rt.archive.result",
    "Stream": "r2rt.grounding.stream",
    "Timings": "r2rt.grounding.prediction",
    "find_highlights": "r2rt.selection.highlights",
    "find_sequences": "r2rt.selection.sequences",
    "find_videos": "r2rt.grounding.many",
    "ground_many": "r2rt.grounding.many",
    "summarize": "r2rt.selection.summary",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'r2rt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
