"""Events to a web address, without ever holding up the stream."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from r2rt.errors import QueryError
from r2rt.retry import TransientError, retrying

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
        transport: what connects; httpx2's own if None.

    Raises:
        QueryError: the address is none of http or https, a header is not ASCII, or the environment
            names a proxy or certificates that cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        tries: int = _TRIES,
        waiting: int = _WAITING,
        first_wait_s: float = _FIRST_WAIT_S,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        if not _is_web_address(url):
            raise QueryError(f"webhook {url[:80]!r}: expected http://… or https://…")
        for name, value in (headers or {}).items():
            if not f"{name}{value}".isascii() or not f"{name}{value}".isprintable():
                raise QueryError(f"webhook header {name[:40]!r}: expected printable ASCII alone")
        self._url = url
        self._headers = dict(headers or {})
        self._tries = tries
        self._first_wait_s = first_wait_s
        self._client = _client(url, self._headers, transport)
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(waiting)
        self._closing = threading.Event()
        self._counted = threading.Lock()
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
        with self._client as client:
            while not self._closing.is_set():
                record = self._queue.get()
                if record is None:
                    return
                self._deliver(client, record)

    def _deliver(self, client: httpx2.Client, record: dict[str, Any]) -> None:
        again = retrying(
            tries=self._tries,
            first_s=self._first_wait_s,
            longest_s=_LONGEST_WAIT_S,
            sleep=self._sleep,
        )
        try:
            again(self._send, client, record)
        except (TransientError, _RefusedError) as error:
            self._drop(str(error))
        except _ClosingError:
            self._drop(self.last_failure or "watching ended")
        else:
            with self._counted:
                self.delivered += 1

    def _send(self, client: httpx2.Client, record: dict[str, Any]) -> None:
        """Send one record; the body of the answer, which may be endless, is not read."""
        import httpx2

        try:
            with client.stream("POST", self._url, json=record) as response:
                status, success = response.status_code, response.is_success
        except httpx2.HTTPError as error:
            failure = TransientError(type(error).__name__)
        except Exception as error:  # such as a name that the resolver cannot even encode
            raise _RefusedError(type(error).__name__) from error
        else:
            if success:
                return
            if status < 500 and status not in (_TOO_MANY_REQUESTS, _REQUEST_TIMEOUT):
                raise _RefusedError(f"status {status}")
            failure = TransientError(f"status {status}")
        self.last_failure = str(failure)
        raise failure

    def _sleep(self, seconds: float) -> None:
        if self._closing.wait(seconds):
            raise _ClosingError

    def _drop(self, reason: str) -> None:
        self.last_failure = reason
        with self._counted:
            self.dropped += 1


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as an IPv6 address without its end, or a port that is no number
        return False


def _client(
    url: str, headers: Mapping[str, str], transport: httpx2.BaseTransport | None
) -> httpx2.Client:
    """Return what posts; made at once, so that what it cannot use is no surprise to a thread."""
    import httpx2

    try:
        httpx2.URL(url)
        return httpx2.Client(timeout=_REQUEST_TIMEOUT_S, headers=headers, transport=transport)
    except (httpx2.InvalidURL, ValueError, ImportError, OSError) as error:
        raise QueryError(
            f"webhook {url[:80]!r}: cannot be posted to ({error}); check the address, and the "
            "proxy and certificates that the environment names"
        ) from error


class _RefusedError(Exception):
    """The server does not want this record, now or later."""


class _ClosingError(Exception):
    """Watching ended while a record waited for its next try."""
