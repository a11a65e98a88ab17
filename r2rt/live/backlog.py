"""The bounded queue between who reads and who encodes: the newest clip matters."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from r2rt.live.events import Reconnected, Retrying

__all__ = ["Backlog", "ClipItem", "End", "Item", "SegmentEnd"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipItem:
    """A frame that stands for clips that are complete, and how far the stream is now.

    Attributes:
        pixels: (S, S, 3) uint8 RGB.
        count: how many clips it stands for.
        segment: number of the segment.
        segment_s: where the segment begins on the stream's clock, in seconds.
        edge_s: how far the segment has come, from its beginning, in seconds: frames from here on
            have no part in these clips.
        edge_arrival_s: when a frame at the edge arrived or would have, by `time.monotonic`.
        arrival_s: when the frame arrived, by the same clock.
        is_live: it came in its own time; else the source is read ahead of real time.
        inherited: how many of `count` are clips whose own frame was left out.
    """

    pixels: NDArray[np.uint8]
    count: int
    segment: int
    segment_s: float
    edge_s: float
    edge_arrival_s: float
    arrival_s: float
    is_live: bool
    inherited: int = 0


@dataclass(frozen=True, kw_only=True)
class SegmentEnd:
    """The segment is over: what comes next, if anything, does not follow without a gap.

    Attributes:
        edge_s: where it ended, from its beginning, in seconds.
        edge_arrival_s: when a frame there would have arrived, by `time.monotonic`.
        is_gap: something may come next.
    """

    edge_s: float
    edge_arrival_s: float
    is_gap: bool


@dataclass(frozen=True)
class End:
    """Nothing comes any more; the error says why, if that is one."""

    error: BaseException | None


Notice: TypeAlias = Retrying | Reconnected
Item: TypeAlias = ClipItem | SegmentEnd | Notice | End

# Notices kept about a source that is away for days while nobody reads them.
_NOTICES_KEPT = 256


class Backlog:
    """Holds up to `depth` clips, and the notices between them, in order.

    When it is full, the oldest clip is left out and counted: the one after it takes its place, so
    that clips keep their places in time.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._items: deque[Item] = deque()
        self._clips = 0
        self._notices = 0
        self._changed = threading.Condition()
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Clips left out so far."""
        return self._dropped

    def put(self, item: Item) -> None:
        """Take an item in; if it is a clip and there is no room, leave out the oldest clip."""
        with self._changed:
            self._items.append(item)
            if isinstance(item, ClipItem):
                self._clips += 1
                if self._clips > self._depth:
                    self._drop_oldest()
            elif isinstance(item, Retrying | Reconnected):
                self._notices += 1
                if self._notices > _NOTICES_KEPT:
                    self._forget_oldest_notice()
            self._changed.notify_all()

    def wait_for_room(self, stopped: Callable[[], bool]) -> None:
        """Return when there is room for a clip, or when `stopped` says so."""
        with self._changed:
            while self._clips >= self._depth and not stopped():
                self._changed.wait(0.2)

    def take(self, timeout_s: float) -> list[Item]:
        """Return all that is there as soon as there is anything; nothing after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._items:
                rest = deadline - time.monotonic()
                if rest <= 0:
                    return []
                self._changed.wait(rest)
            items = list(self._items)
            self._items.clear()
            self._clips = self._notices = 0
            self._changed.notify_all()
            return items

    def _drop_oldest(self) -> None:
        clips = [
            (place, item) for place, item in enumerate(self._items) if isinstance(item, ClipItem)
        ]
        (place, oldest), (next_place, heir) = clips[:2]
        if heir.segment == oldest.segment:
            self._items[next_place] = replace(
                heir,
                count=heir.count + oldest.count,
                inherited=heir.inherited + oldest.count,
            )
        del self._items[place]
        self._clips -= 1
        self._dropped += oldest.count - oldest.inherited

    def _forget_oldest_notice(self) -> None:
        for place, item in enumerate(self._items):
            if isinstance(item, Retrying | Reconnected):
                del self._items[place]
                self._notices -= 1
                return
