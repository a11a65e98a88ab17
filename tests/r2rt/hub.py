"""A hub on 127.0.0.1 that serves files, well or badly, and remembers what it was asked for."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.r2rt.local_server import local_server

__all__ = ["Hub", "Request", "Step", "running_hub"]

_CHUNK = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Step:
    """How one request for a path is answered; without a step the answer is right.

    Attributes:
        status: answer with this status and no file.
        headers: headers to add.
        cut_after: close the connection after so many bytes of the body.
        announce: promise so many bytes, whatever follows.
        endless: send the body over and over, without a length.
        corrupt: turn every bit of the body.
        ignore_range: send the whole file whatever was asked.
        shift: answer a range request with bytes that begin so much later.
        pause_s: wait so long before each 16 KiB.
        hold: send nothing of the body before this is set, at most half a minute.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    announce: int | None = None
    endless: bool = False
    corrupt: bool = False
    ignore_range: bool = False
    shift: int = 0
    pause_s: float = 0.0
    hold: threading.Event | None = None


@dataclass
class Request:
    path: str
    range: str | None
    if_range: str | None
    sent: int = 0


@dataclass
class Hub:
    """The served files and the log; `steps[path]` is used up from its front."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    steps: dict[str, list[Step]] = field(default_factory=dict)
    always: dict[str, Step] = field(default_factory=dict)
    etags: bool = True
    requests: list[Request] = field(default_factory=list)

    def add(self, path: str, body: bytes) -> str:
        self.files[path] = body
        return f"{self.url}/{path}"

    def sent(self, path: str) -> list[int]:
        """Bytes of the body that each request for a path was sent."""
        return [request.sent for request in self.requests if request.path == path]


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        served = hub

    with local_server(Handler) as hub.url:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    served: Hub

    def do_GET(self) -> None:
        hub, path = self.served, self.path.lstrip("/").partition("?")[0]
        request = Request(path, self.headers["Range"], self.headers["If-Range"])
        hub.requests.append(request)
        pending = hub.steps.get(path)
        step = pending.pop(0) if pending else hub.always.get(path, Step())
        try:
            self._answer(request, step)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Stay quiet."""

    def _answer(self, request: Request, step: Step) -> None:
        body = self.served.files.get(request.path)
        status = step.status or (404 if body is None else 0)
        if status or body is None:
            self._head(status, step.headers, length=0)
            return
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        headers = dict(step.headers)
        if self.served.etags:
            headers.setdefault("ETag", etag)
        if step.corrupt:
            body = bytes(byte ^ 0xFF for byte in body)
        if step.endless:
            self._head(200, headers, length=None)
            while True:
                self._send(request, body, step)
        start = self._start(request, step, headers.get("ETag"))
        if start is None:
            self._head(200, headers, length=step.announce or len(body))
            self._send(request, body, step)
        elif start >= len(body):
            self._head(416, {"Content-Range": f"bytes */{len(body)}"}, length=0)
        else:
            start += step.shift
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self._head(206, headers, length=len(body) - start)
            self._send(request, body[start:], step)

    def _start(self, request: Request, step: Step, etag: str | None) -> int | None:
        if request.range is None or step.ignore_range:
            return None
        if request.if_range and request.if_range != etag:
            return None
        match = re.fullmatch(r"bytes=(\d+)-", request.range)
        assert match, f"odd range {request.range}"
        return int(match[1])

    def _head(self, status: int, headers: dict[str, str], *, length: int | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(self, request: Request, body: bytes, step: Step) -> None:
        if step.hold is not None:
            step.hold.wait(30)
        if step.cut_after is not None:
            body = body[: step.cut_after]
        for at in range(0, len(body), _CHUNK):
            time.sleep(step.pause_s)
            chunk = body[at : at + _CHUNK]
            self.wfile.write(chunk)
            request.sent += len(chunk)
