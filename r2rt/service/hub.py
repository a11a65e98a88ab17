"""What happens in threads, brought to those who listen in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import Any

__all__ = ["Hub", "as_sse"]

# A listener that reads more slowly than events come loses the oldest of those that wait.
_WAITING = 256
# Proxies close connections over which nothing goes for a minute.
_KEEP_ALIVE_S = 15.0


class Hub:
    """Topics, each with any number of listeners; nobody waits for a listener."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: defaultdict[str, set[asyncio.Queue[Any]]] = defaultdict(set)
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many listen."""
        return sum(map(len, self._queues.values()))

    def open(self) -> None:
        """Deliver in the running event loop from now on."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """End every listener; call it in the event loop."""
        self._closed = True
        for queues in self._queues.values():
            for queue in queues:
                _put(queue, None)

    def publish(self, topic: str, item: Any) -> None:
        """Bring an item, which is not None, to all who listen; from any thread."""
        if self._loop is not None and topic in self._queues and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, topic, item)

    @contextlib.contextmanager
    def listening(self, topic: str) -> Iterator[AsyncIterator[Any]]:
        """Give the events published in the block, and None whenever nothing came for a while."""
        queue: asyncio.Queue[Any] = asyncio.Queue(_WAITING)
        self._queues[topic].add(queue)
        try:
            yield self._items(queue)
        finally:
            self._queues[topic].discard(queue)
            if not self._queues[topic]:
                del self._queues[topic]

    async def _items(self, queue: asyncio.Queue[Any]) -> AsyncIterator[Any]:
        while not self._closed:
            try:
                item = await asyncio.wait_for(queue.get(), _KEEP_ALIVE_S)
            except TimeoutError:
                yield None
                continue
            if item is None:
                return
            yield item

    def _deliver(self, topic: str, item: Any) -> None:
        for queue in self._queues.get(topic, ()):
            _put(queue, item)


def _put(queue: asyncio.Queue[Any], item: Any) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(item)


def as_sse(event: str, data: Any, *, number: int | None = None) -> bytes:
    """Return one server-sent event; its data is JSON on one line."""
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
