"""A generator that runs ahead in a thread: order, errors, bounds, cancelling."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from r2rt.grounding.prefetch import prefetch


def test_items_come_in_order() -> None:
    assert list(prefetch(range(1000), depth=3)) == list(range(1000))


def test_an_error_is_raised_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("third")

    ahead = prefetch(items(), depth=8)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(KeyError, match="third"):
        next(ahead)


def test_it_runs_ahead_by_no_more_than_its_depth() -> None:
    made = []

    def items() -> Iterator[int]:
        for index in range(100):
            made.append(index)
            yield index

    ahead = prefetch(items(), depth=4)
    assert next(ahead) == 0
    time.sleep(0.2)
    # One taken, four waiting, one in the thread's hand.
    assert len(made) <= 6
    ahead.close()


def test_closing_it_ends_the_thread() -> None:
    def endless() -> Iterator[int]:
        index = 0
        while True:
            yield index
            index += 1

    before = threading.active_count()
    ahead = prefetch(endless(), depth=2)
    next(ahead)
    ahead.close()
    assert threading.active_count() <= before
