"""From a source to one model-size RGB picture a clip, streaming, in bounded memory.

`open_source` opens a file, a folder of images or an array; `ClipSelector` and `FramePreparer` do
the same, picture by picture, for sources that push.
"""

from __future__ import annotations

from r2rt.video.api import ClipFrame, DecodeReport, FrameSource, Sampling, SourceInfo
from r2rt.video.clock import ClipClock, ClipSelector, Selection
from r2rt.video.departures import Departures
from r2rt.video.pixels import FramePreparer, prepare_frame
from r2rt.video.plan import PlanCost
from r2rt.video.source import open_source

__all__ = [
    "ClipClock",
    "ClipFrame",
    "ClipSelector",
    "DecodeReport",
    "Departures",
    "FramePreparer",
    "FrameSource",
    "PlanCost",
    "Sampling",
    "Selection",
    "SourceInfo",
    "open_source",
    "prepare_frame",
]
