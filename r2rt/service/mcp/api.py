"""Calls of the HTTP interface without a network, as whoever calls the tool."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal

import httpx2
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from starlette.types import ASGIApp, Message, Receive, Scope

__all__ = ["Api", "Report", "checked"]

_BASE = "http://127.0.0.1"
# The host is one that the service goes by, since the caller's request was let in.
_FORWARDED = ("authorization", "cookie", "host")

# Called with progress, 0 to 1, and a line about it.
Report = Callable[[float, str], Awaitable[None]]


class Api:
    """The HTTP interface as the caller of a tool may use it.

    Args:
        app: the application.
        context: of the call; its token and its name of the service are sent on.

    Errors of the interface become `ToolError`, whose message says what to do.
    """

    def __init__(self, app: ASGIApp, context: Context[Any, Any] | None) -> None:
        sent = None if context is None else context.headers
        self._headers = {} if sent is None else {k: sent[k] for k in _FORWARDED if k in sent}
        self._app = app
        self._began = time.time()
        self._transport = httpx2.ASGITransport(app, raise_app_exceptions=False)

    async def get(self, path: str, **parameters: Any) -> Any:
        """Return the JSON at a path."""
        return (await self.fetch("GET", path, params=parameters)).json()

    async def fetch(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Return an answer that is not an error.

        Raises:
            ToolError: it is one.
        """
        return checked(await self.try_fetch(method, path, **options))

    async def begin(self, path: str, body: Any, kind: Literal["job", "watch"]) -> httpx2.Response:
        """Send what may begin a job or a watch, and return the answer, which may be an error.

        What has begun ends if the call is cancelled before the answer comes.
        """
        answer = asyncio.create_task(self.try_fetch("POST", path, json=body))
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            await asyncio.shield(self._end(answer, kind))
            raise

    async def _end(self, answer: asyncio.Task[httpx2.Response], kind: str) -> None:
        document = (await answer).json()
        if kind == "job" and document.get("job"):
            await self._cancel(document["job"])
        elif kind == "watch" and "id" in document:
            await self.try_fetch("DELETE", f"watches/{document['id']}")

    async def _cancel(self, job: str) -> None:
        """Cancel a job, unless it was there before the call: then others wait for it."""
        document = (await self.try_fetch("GET", f"jobs/{job}")).json()
        if document.get("created_at", 0.0) >= self._began:
            await self.try_fetch("DELETE", f"jobs/{job}")

    async def try_fetch(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Return an answer, which may be an error."""
        async with self._client() as client:
            return await client.request(method, f"/api/v1/{path}", **options)

    async def events(self, path: str) -> AsyncGenerator[tuple[str, Any], None]:
        """Yield name and data of the events of a stream."""
        name, waiting = "message", b""
        async with aclosing(self._stream(f"/api/v1/{path}")) as parts:
            async for part in parts:
                *lines, waiting = (waiting + part).split(b"\n")
                for line in lines:
                    if line.startswith(b"event: "):
                        name = line[7:].decode()
                    elif line.startswith(b"data: "):
                        yield name, json.loads(line[6:])

    async def finished(self, job: str, wait_s: float, report: Report) -> dict[str, Any]:
        """Wait for a job and return it, finished or not; a cancelled call cancels what it began."""
        document: dict[str, Any] = {}
        deadline = asyncio.get_running_loop().time() + wait_s
        try:
            while True:
                document = await self.get(f"jobs/{job}")
                await report(document["progress"], _line(document))
                left_s = deadline - asyncio.get_running_loop().time()
                if document["state"] in ("done", "failed", "cancelled") or left_s <= 0:
                    return document
                await asyncio.sleep(min(0.25, left_s))
        except asyncio.CancelledError:
            await asyncio.shield(self._cancel(job))
            raise

    async def _stream(self, path: str) -> AsyncGenerator[bytes, None]:
        """Yield the parts of a body as they come; httpx2's transport waits for its end."""
        messages: asyncio.Queue[Message] = asyncio.Queue()
        asked = False

        async def receive() -> Message:
            nonlocal asked
            if asked:
                await asyncio.Event().wait()  # the caller is there until it cancels
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        headers = {"host": "127.0.0.1", **self._headers}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 80),
        }
        task = asyncio.create_task(_call(self._app, scope, receive, messages.put))
        try:
            start = await messages.get()
            if start["type"] != "http.response.start":
                raise ToolError("the service could not answer; see its log")
            body = bytearray()
            while (message := await messages.get())["type"] == "http.response.body":
                part = message.get("body", b"")
                if start["status"] < 400:
                    yield part
                body += part if start["status"] >= 400 else b""
                if not message.get("more_body", False):
                    break
            if start["status"] >= 400:
                checked(httpx2.Response(start["status"], content=bytes(body)))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx2.AsyncClient]:
        async with httpx2.AsyncClient(
            transport=self._transport, base_url=_BASE, headers=self._headers, timeout=None
        ) as client:
            yield client


async def _call(
    app: ASGIApp, scope: Scope, receive: Receive, put: Callable[[Message], Awaitable[None]]
) -> None:
    """Call the application; its end is a message of its own, also where it failed."""
    try:
        await app(scope, receive, put)
    finally:
        await put({"type": "end"})


def checked(response: httpx2.Response) -> httpx2.Response:
    """Return an answer that is not an error.

    Raises:
        ToolError: it is one; the message is what the interface says.
    """
    if not response.is_error:
        return response
    try:
        problem = response.json()
        line = problem.get("detail") or problem["title"]
    except ValueError:
        line = f"the service answered {response.status_code}"
    raise ToolError(line)


def _line(job: dict[str, Any]) -> str:
    left_s = job["remaining_s"]
    rest = "" if left_s is None else f", {left_s:.0f} s left"
    return f"{job['kind']}: {job['state']}, {100 * job['progress']:.0f} %{rest}"
