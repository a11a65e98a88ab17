"""Running the application in uvicorn until a signal ends it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from r2rt.errors import ServiceStateError
from r2rt.service.connections import timely
from r2rt.service.service import Service

__all__ = ["run"]

# Requests may take so long to end after a signal; jobs are handed back afterwards.
_GRACE_S = 10


class _Server(uvicorn.Server):
    """Ends streams of events first, which would go on for ever."""

    def __init__(
        self, config: uvicorn.Config, service: Service, on_ready: Callable[[str], object]
    ) -> None:
        super().__init__(config)
        self._service = service
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and say where.

        Raises:
            ServiceStateError: the address cannot be listened at.
        """
        try:
            await super().startup(sockets)
        except SystemExit as error:
            reason = error.__context__
            if not isinstance(reason, OSError):
                raise
            raise ServiceStateError(
                f"{self.config.host}:{self.config.port}: {reason.strerror or reason}; choose "
                "another --port or --host, or end the program that listens there"
            ) from error
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                self._on_ready(f"serving at http://{shown}:{port}/; Ctrl-C ends")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop serving."""
        self._service.hub.close()
        await super().shutdown(sockets)


def run(app: FastAPI, *, on_ready: Callable[[str], object]) -> None:
    """Serve an application until SIGINT or SIGTERM.

    Args:
        app: made by `create_app`.
        on_ready: called with a line that says where it is served.

    Raises:
        ServiceStateError: the address cannot be listened at, such as one in use.
    """
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        http=timely(AutoHTTPProtocol, service.settings.header_timeout_s),
        host=service.settings.host,
        port=service.settings.port,
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    _Server(config, service, on_ready).run()
