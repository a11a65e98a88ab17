"""From a source to one model-size RGB frame a clip, streaming, in bounded memory.

`open_source` opens a file, a folder of images or an array; `ClipSelector` and `FramePreparer` do
the same, frame by frame, for sources that push. Names below are imported when they are first used,
so that code that needs only some of them does not load PyAV.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r2rt.video.api import ClipFrame, DecodeReport, FrameSource, Sampling, SourceInfo
    from r2rt.video.clock import ClipClock, ClipSelector, Selection
    from r2rt.video.decoders import DECODERS, Decoder
    from r2rt.video.departures import Departures
    from r2rt.video.pixels import FramePreparer, prepare_frame
    from r2rt.video.plan import PlanCost
    from r2rt.video.source import open_source

__all__ = [
    "DECODERS",
    "ClipClock",
    "ClipFrame",
    "ClipSelector",
    "DecodeReport",
    "Decoder",
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

_HOMES = {
    "DECODERS": "decoders",
    "ClipClock": "clock",
    "ClipFrame": "api",
    "ClipSelector": "clock",
    "DecodeReport": "api",
    "Decoder": "decoders",
    "Departures": "departures",
    "FramePreparer": "pixels",
    "FrameSource": "api",
    "PlanCost": "plan",
    "Sampling": "api",
    "Selection": "clock",
    "SourceInfo": "api",
    "open_source": "source",
    "prepare_frame": "pixels",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'r2rt.video' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"r2rt.video.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
