"""A server on 127.0.0.1 that gives ranges of files, and counts what it was asked for and sent."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.r2rt.local_server import local_server

__all__ = ["RangeServer", "running_ranges"]

_PART_BYTES = 1 << 20


@dataclass
class RangeServer:
    """The served files by name, and what became of the requests so far.

    Attributes:
        ranges: False answers with whole files, as some servers do.
        wait_s: seconds before every answer.
        sent: bytes of bodies.
        requests: those for bodies.
        at_once: the most of them that were under way together.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    wait_s: float = 0.0
    sent: int = 0
    requests: int = 0
    at_once: int = 0


@contextmanager
def running_ranges() -> Iterator[RangeServer]:
    """Serve until the end of the block."""
    served = RangeServer()
    lock, under_way = threading.Lock(), 0

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            nonlocal under_way
            with lock:
                under_way += 1
                served.requests += self.command == "GET"
                served.at_once = max(served.at_once, under_way)
            time.sleep(served.wait_s)
            try:
                self.answer()
            finally:
                with lock:
                    under_way -= 1

        def answer(self) -> None:
            body = served.files.get(self.path.lstrip("/"))
            if body is None:
                self.send_error(404)
                return
            size, first, last = len(body), 0, len(body) - 1
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
            asked = asked if served.ranges else None
            if asked:
                first, last = int(asked[1]), min(int(asked[2] or last), last)
            self.send_response(206 if asked else 200)
            if served.ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(last + 1 - first))
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            if self.command == "GET":
                for start in range(first, last + 1, _PART_BYTES):
                    part = body[start : min(start + _PART_BYTES, last + 1)]
                    served.sent += len(part)  # before the client, who has it then, may look
                    try:
                        self.wfile.write(part)
                    except ConnectionError:
                        return

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    with local_server(Handler) as served.url:
        yield served
