"""A server on 127.0.0.1 that gives ranges of files, and counts the bytes that it sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.r2rt.local_server import local_server

__all__ = ["RangeServer", "running_ranges"]


@dataclass
class RangeServer:
    """The served files by name, and the bytes of bodies that were sent so far."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    sent: int = 0


@contextmanager
def running_ranges() -> Iterator[RangeServer]:
    """Serve until the end of the block."""
    served = RangeServer()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            body = served.files.get(self.path.lstrip("/"))
            if body is None:
                self.send_error(404)
                return
            size, first, last = len(body), 0, len(body) - 1
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
            if asked:
                first, last = int(asked[1]), min(int(asked[2] or last), last)
            self.send_response(206 if asked else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(last + 1 - first))
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            if self.command == "GET":
                served.sent += last + 1 - first  # before the client, who has it then, may look
                self.wfile.write(body[first : last + 1])

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    with local_server(Handler) as served.url:
        yield served
