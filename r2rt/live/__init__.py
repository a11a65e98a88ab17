"""Standing queries on video that does not end: sources, clock, sliding window, events.

A source's way to an event: `source.py` (what is opened, and how) → `reader.py` (a thread that
reads, reconnects, decodes and picks one frame a clip; `clock.py` gives each its time) →
`backlog.py` (a bounded queue) → `watcher.py` (tokens of the last window, answers) → `tracker.py`
(answers to moments that open and close) → `events.py`.
"""

from __future__ import annotations

from r2rt.live.events import (
    Changed,
    Closed,
    Dropped,
    Event,
    MomentEvent,
    Opened,
    Reconnected,
    Retrying,
    as_record,
)
from r2rt.live.source import LiveSource, SourceOptions
from r2rt.live.summary import WatchSummary
from r2rt.live.tracker import TrackerRules
from r2rt.live.watcher import Watcher
from r2rt.live.webhook import Webhook

__all__ = [
    "Changed",
    "Closed",
    "Dropped",
    "Event",
    "LiveSource",
    "MomentEvent",
    "Opened",
    "Reconnected",
    "Retrying",
    "SourceOptions",
    "TrackerRules",
    "WatchSummary",
    "Watcher",
    "Webhook",
    "as_record",
]
