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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r2rt.bundle import Bundle, Nms
    from r2rt.encoded import EncodedVideo
    from r2rt.errors import R2rtError
    from r2rt.grounder import Grounder
    from r2rt.highlights import find_highlights
    from r2rt.many import find_videos, ground_many
    from r2rt.prediction import Moment, Prediction, Timings
    from r2rt.sequences import find_sequences
    from r2rt.stream import Stream
    from r2rt.summary import summarize

__all__ = [
    "Bundle",
    "EncodedVideo",
    "Grounder",
    "Moment",
    "Nms",
    "Prediction",
    "R2rtError",
    "Stream",
    "Timings",
    "find_highlights",
    "find_sequences",
    "find_videos",
    "ground_many",
    "summarize",
]

_HOMES = {
    "Bundle": "r2rt.bundle",
    "EncodedVideo": "r2rt.encoded",
    "Grounder": "r2rt.grounder",
    "Moment": "r2rt.prediction",
    "Nms": "r2rt.bundle",
    "Prediction": "r2rt.prediction",
    "R2rtError": "r2rt.errors",
    "Stream": "r2rt.stream",
    "Timings": "r2rt.prediction",
    "find_highlights": "r2rt.highlights",
    "find_sequences": "r2rt.sequences",
    "find_videos": "r2rt.many",
    "ground_many": "r2rt.many",
    "summarize": "r2rt.summary",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'r2rt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
