"""The MCP server: the tools, and videos and answers as resources."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import ToolAnnotations
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from r2rt.service.mcp.api import Api
from r2rt.service.mcp.tools import Tools

__all__ = ["http_routes", "mcp_server", "running"]

_INSTRUCTIONS = (
    "r2rt finds moments in videos from a sentence. list_videos shows what there is; ground answers "
    "when a sentence happens in one video, search_library in all. Describe what is seen, in few "
    "words ('a dog catches a frisbee'), not what is said. Times are seconds from the start of the "
    "video. A low score means that the moment fits badly."
)
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=True)
_WRITES = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)


def mcp_server(app: ASGIApp, output: Path | None = None) -> MCPServer[Any]:
    """Return a server of tools over the service's application.

    Args:
        app: made by `create_app`; calls go through it, with the caller's token.
        output: the folder in which clips and exports are saved as well.
    """
    with _logging_as_it_is():
        server: MCPServer[Any] = MCPServer(
            "r2rt",
            title="r2rt: moments in videos",
            instructions=_INSTRUCTIONS,
            version=importlib.metadata.version("r2rt"),
            log_level="WARNING",
        )
    tools = Tools(app, output)
    kinds: dict[Callable[..., Any], ToolAnnotations] = {
        tools.list_videos: _READS,
        tools.add_video: _ADDS,
        tools.search_library: _READS,
        tools.ground: _READS,
        tools.watch: _ADDS,
        tools.clip: _WRITES,
        tools.export: _WRITES,
        tools.job_status: _WRITES,
    }
    for tool, hints in kinds.items():
        server.add_tool(tool, annotations=hints)
    _add_resources(server, app)
    return server


def http_routes(server: MCPServer[Any]) -> list[BaseRoute]:
    """Return what serves `/mcp`; the service checks hosts, origins and tokens before it.

    With a slash at the end too: a redirect names http, which is wrong behind a proxy with TLS.
    """
    app = server.streamable_http_app(
        streamable_http_path="/mcp",
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    (route,) = app.routes
    assert isinstance(route, Route)
    return [route, Route("/mcp/", endpoint=route.endpoint)]


@contextlib.asynccontextmanager
async def running(server: MCPServer[Any]) -> AsyncIterator[None]:
    """Serve the sessions of `http_routes`."""
    async with server.session_manager.run():
        yield


def _add_resources(server: MCPServer[Any], app: ASGIApp) -> None:
    async def video(id: str, context: Context[Any, Any]) -> str:  # noqa: A002
        """Return a video and its streams as JSON."""
        with _missing():
            return json.dumps(await Api(app, context).get(f"videos/{id}"))

    async def answer(id: str, query: str, context: Context[Any, Any]) -> str:  # noqa: A002
        """Return the moments of a query, and the saliency of the whole video, as JSON."""
        body = {"queries": [query]}
        with _missing():
            found = await Api(app, context).fetch("POST", f"videos/{id}/ground", json=body)
        return json.dumps(found.json())

    async def frame(id: str, time_s: str, context: Context[Any, Any]) -> bytes:  # noqa: A002
        """Return the frame on display at a time as a JPEG."""
        return await _bytes(app, context, f"videos/{id}/frame", time_s=time_s)

    async def clip(id: str, start_s: str, end_s: str, context: Context[Any, Any]) -> bytes:  # noqa: A002
        """Return a span as an mp4."""
        return await _bytes(app, context, f"videos/{id}/clip", start_s=start_s, end_s=end_s)

    add = server.resource
    add("r2rt://videos/{id}", mime_type="application/json")(video)
    add("r2rt://videos/{id}/answers/{query}", mime_type="application/json")(answer)
    add("r2rt://videos/{id}/frames/{time_s}.jpg", mime_type="image/jpeg")(frame)
    add("r2rt://videos/{id}/clips/{start_s}-{end_s}.mp4", mime_type="video/mp4")(clip)


async def _bytes(app: ASGIApp, context: Context[Any, Any], path: str, **parameters: str) -> bytes:
    with _missing():
        response = await Api(app, context).fetch("GET", path, params=parameters)
    return response.content


@contextlib.contextmanager
def _missing() -> Iterator[None]:
    """Turn an error of the interface into one of a resource, with the same line."""
    try:
        yield
    except ToolError as error:
        raise ResourceNotFoundError(str(error)) from None


@contextlib.contextmanager
def _logging_as_it_is() -> Iterator[None]:
    """Keep the SDK from setting up the process's logging: it does nothing where a handler is."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
