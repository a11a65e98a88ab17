"""Connections whose headers come slowly, which uvicorn would keep open for ever."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["timely"]

_MOST_BYTES = 64 << 10  # of headers


def timely(base: type[asyncio.Protocol], within_s: float) -> type[asyncio.Protocol]:
    """Return one of uvicorn's HTTP protocols that waits for headers for a limited time.

    Args:
        base: the protocol.
        within_s: after this time a connection without the whole headers of a request is closed,
            counted from its beginning or from the first byte of a further request.
    """

    class Timely(base):  # type: ignore[valid-type,misc]
        _timer: asyncio.TimerHandle | None = None
        _bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._forget()  # the headers are complete
                return
            self._bytes += len(data)
            if self._bytes > _MOST_BYTES:
                self.transport.close()
            elif self._timer is None:
                self._await_headers()

        def connection_lost(self, error: Exception | None) -> None:
            self._forget()
            super().connection_lost(error)

        def _await_headers(self) -> None:
            self._timer = asyncio.get_running_loop().call_later(within_s, self.transport.close)

        def _forget(self) -> None:
            self._bytes = 0
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Timely
