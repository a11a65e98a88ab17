"""Events to a web address, without ever holding up the stream."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from r2rt.errors import QueryError

if TYPE_CHECKING:
    import httpx2

__all__ = ["Webhook"]

_WAITING = 256
_TRIES = 6
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 15.0
_REQUEST_TIMEOUT_S = 10.0
_TOO_MANY_REQUESTS = 429
_REQUEST_TIMEOUT = 408


class Webhook:
    """Posts records as JSON, one a request, in order, from a thread of its own.

    What a server cannot take now (no connection, no answer in time, status 408, 429, 5xx) is tried
    again with growing waits. A record is dropped and counted when all its tries have failed, when
    the server refuses it, or when too many wait.

    Args:
        url: an http or https address.
        headers: what goes with each request, such as `{"Authorization": "Bearer …"}`.
        tries: how often a record is tried.
        waiting: how many records may wait.
        first_wait_s: the wait after a first failure; it doubles from there.

    Raises:
        QueryError: the address is none of http or https.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        tries: int = _TRIES,
        waiting: int = _WAITING,
        first_wait_s: float = _FIRST_WAIT_S,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise QueryError(f"webhook {url!r}; expected http://… or https://…")
        self._url = url
        self._headers = dict(headers or {})
        self._tries = tries
        self._first_wait_s = first_wait_s
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(waiting)
        self._closing = threading.Event()
        self._counted = threading.Lock()
        self._jitter = random.Random()
        self.delivered = 0
        self.dropped = 0
        self.last_failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="r2rt-webhook", daemon=True)
        self._thread.start()

    def post(self, record: dict[str, Any]) -> None:
        """Hand a record over; returns at once. It is dropped and counted if too many wait."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._drop("too many wait")

    def close(self, timeout_s: float = 5.0) -> None:
        """Wait up to `timeout_s` for what still waits, then drop and count the rest."""
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        self._closing.set()
        self._thread.join(1.0)
        while True:
            try:
                record = self._queue.get_nowait()
            except queue.Empty:
                return
            if record is not None:
                self._drop("watching ended")

    def _run(self) -> None:
        import httpx2

        with httpx2.Client(timeout=_REQUEST_TIMEOUT_S, headers=self._headers) as client:
            while not self._closing.is_set():
                record = self._queue.get()
                if record is None:
                    return
                self._deliver(client, record)

    def _deliver(self, client: httpx2.Client, record: dict[str, Any]) -> None:
        import httpx2

        wait_s = self._first_wait_s
        for attempt in range(1, self._tries + 1):
            try:
                response = client.post(self._url, json=record)
            except httpx2.HTTPError as error:
                failure, may_pass = type(error).__name__, True
            else:
                if response.is_success:
                    with self._counted:
                        self.delivered += 1
                    return
                status = response.status_code
                failure = f"status {status}"
                may_pass = status >= 500 or status in (_TOO_MANY_REQUESTS, _REQUEST_TIMEOUT)
            self.last_failure = failure
            if not may_pass or attempt == self._tries:
                break
            if self._closing.wait(wait_s * self._jitter.uniform(0.5, 1.0)):
                break
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        self._drop(failure)

    def _drop(self, reason: str) -> None:
        self.last_failure = reason
        with self._counted:
            self.dropped += 1
