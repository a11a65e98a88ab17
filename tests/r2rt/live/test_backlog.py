"""The newest clips survive, in their places; what was left out is counted."""

from __future__ import annotations

import threading
import time

import numpy as np

from r2rt.live.backlog import Backlog, ClipItem, End, SegmentEnd
from r2rt.live.events import Retrying


def clip(number: int, *, count: int = 1, segment: int = 0) -> ClipItem:
    return ClipItem(
        pixels=np.full((1, 1, 3), number, np.uint8),
        count=count,
        segment=segment,
        segment_s=0.0,
        edge_s=float(number),
        edge_arrival_s=0.0,
        arrival_s=0.0,
        is_live=True,
    )


def retrying() -> Retrying:
    return Retrying(reason="x", attempt=1, attempts=None, wait_s=1.0, at=0.0)


def numbers(backlog: Backlog) -> list[tuple[int, int]]:
    return [
        (int(item.pixels[0, 0, 0]), item.count)
        for item in backlog.take(0)
        if isinstance(item, ClipItem)
    ]


def test_what_fits_comes_out_in_order_and_at_once() -> None:
    backlog = Backlog(4)
    for item in (
        clip(1),
        retrying(),
        clip(2),
        SegmentEnd(edge_s=1.0, edge_arrival_s=0.0, is_gap=True),
        clip(3),
        End(None),
    ):
        backlog.put(item)
    assert [type(item).__name__ for item in backlog.take(0)] == [
        "ClipItem",
        "Retrying",
        "ClipItem",
        "SegmentEnd",
        "ClipItem",
        "End",
    ]
    assert backlog.dropped == 0
    assert backlog.take(0.01) == []


def test_the_oldest_is_left_out_and_the_next_stands_in() -> None:
    backlog = Backlog(3)
    for number in range(1, 8):
        backlog.put(clip(number))
    assert numbers(backlog) == [(5, 5), (6, 1), (7, 1)]
    assert backlog.dropped == 4


def test_no_clip_stands_in_for_one_of_another_segment() -> None:
    backlog = Backlog(2)
    backlog.put(clip(1, count=3))
    backlog.put(SegmentEnd(edge_s=1.0, edge_arrival_s=0.0, is_gap=True))
    backlog.put(clip(2, segment=1))
    backlog.put(clip(3, segment=1))
    assert numbers(backlog) == [(2, 1), (3, 1)]
    assert backlog.dropped == 3


def test_notices_do_not_pile_up_and_push_out_no_clip() -> None:
    backlog = Backlog(2)
    backlog.put(clip(1))
    for _ in range(10_000):
        backlog.put(retrying())
    items = backlog.take(0)
    assert isinstance(items[0], ClipItem)
    assert len(items) < 1000


def test_one_may_wait_for_room() -> None:
    backlog = Backlog(1)
    backlog.put(clip(1))
    taken: list[object] = []

    def take() -> None:
        time.sleep(0.05)
        taken.extend(backlog.take(1))

    thread = threading.Thread(target=take)
    thread.start()
    backlog.wait_for_room(lambda: False)
    backlog.put(clip(2))
    thread.join()
    assert len(taken) == 1
    assert backlog.dropped == 0
    backlog.wait_for_room(lambda: True)  # stopped: there is no room, nor any waiting
