"""Events reach a server that fails at first, and a dead one holds nobody up."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from r2rt.errors import QueryError
from r2rt.live import Dropped, Webhook, as_record
from tests.r2rt.local_server import local_server


class Hook(ThreadingHTTPServer):
    """Answers with the statuses given, then 200, and keeps what it took."""

    def __init__(self, statuses: list[int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = statuses
        self.requests = 0
        self.taken: list[dict[str, object]] = []
        self.headers: list[str | None] = []
        self.silent = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/events"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        hook = self.server
        hook.requests += 1
        status = hook.statuses.pop(0) if hook.statuses else 200
        if hook.silent.is_set():
            time.sleep(0.5)
        if status == 200:
            hook.taken.append(json.loads(content))
            hook.headers.append(self.headers["X-Key"])
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook([])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_fails_at_first_gets_everything_in_order(hook: Hook) -> None:
    hook.statuses = [500, 503, 429, 200, 502]
    webhook = Webhook(hook.url, headers={"X-Key": "k"}, first_wait_s=0.01)
    for number in range(5):
        webhook.post({"number": number, "query": "ein Hünd"})
    webhook.close()
    assert [item["number"] for item in hook.taken] == [0, 1, 2, 3, 4]
    assert hook.taken[0]["query"] == "ein Hünd"
    assert hook.headers == ["k"] * 5
    assert hook.requests == 9
    assert (webhook.delivered, webhook.dropped) == (5, 0)


def test_a_source_whose_name_is_no_utf8_is_reported_all_the_same(hook: Hook) -> None:
    webhook = Webhook(hook.url)
    event = Dropped(what="clips", count=1, total=1, at=0.0)
    webhook.post(as_record(event, source=os.fsdecode(b"caf\xe9.ts")))
    webhook.close()
    assert [item["source"] for item in hook.taken] == ["caf\N{REPLACEMENT CHARACTER}.ts"]


def test_what_a_server_refuses_is_dropped_and_the_next_goes_on(hook: Hook) -> None:
    hook.statuses = [400]
    webhook = Webhook(hook.url, first_wait_s=0.01)
    webhook.post({"number": 0})
    webhook.post({"number": 1})
    webhook.close()
    assert [item["number"] for item in hook.taken] == [1]
    assert (webhook.delivered, webhook.dropped) == (1, 1)


def test_after_all_tries_a_record_is_dropped(hook: Hook) -> None:
    hook.statuses = [500] * 3
    webhook = Webhook(hook.url, tries=3, first_wait_s=0.01)
    webhook.post({"number": 0})
    webhook.close()
    assert (hook.requests, webhook.delivered, webhook.dropped) == (3, 0, 1)
    assert webhook.last_failure == "status 500"


def test_nobody_waits_for_a_server_that_is_slow_or_dead(hook: Hook) -> None:
    hook.silent.set()
    slow = Webhook(hook.url, waiting=4)
    dead = Webhook("http://127.0.0.1:9/nothing", waiting=4, first_wait_s=60)
    began = time.monotonic()
    for number in range(50):
        slow.post({"number": number})
        dead.post({"number": number})
    assert time.monotonic() - began < 0.5
    slow.close(timeout_s=0.1)
    dead.close(timeout_s=0.1)
    assert time.monotonic() - began < 5
    # Nothing is lost uncounted.
    assert (dead.delivered, dead.dropped) == (0, 50)
    assert slow.delivered + slow.dropped == 50


@pytest.mark.parametrize(
    "address",
    [
        *(
            "example.com",
            "ftp://example.com/x",
            "http://",
            "http://[::1",
            "http://a:b/",
            "http://[",
        ),
        *("", "http://[::1]x/", "https://é..org/", "http://a\x7fb/"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(QueryError, match="webhook"):
        Webhook(address)


def test_a_proxy_that_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:9")
    with pytest.raises(QueryError, match="gopher"):
        Webhook("http://127.0.0.1:9/")


def test_a_name_that_cannot_be_resolved_at_all_drops_each_record() -> None:
    webhook = Webhook(f"http://{'a' * 70}.example/")  # a label has 63 letters at most
    for number in range(3):
        webhook.post({"number": number})
    webhook.close()
    assert (webhook.delivered, webhook.dropped) == (0, 3)
    assert webhook.last_failure == "UnicodeError"


@pytest.mark.parametrize("value", ["ü", "a\r\nX-Other: b", "\x00"])
def test_a_header_that_cannot_be_sent_is_refused(value: str) -> None:
    with pytest.raises(QueryError, match="header 'X-Key'"):
        Webhook("http://127.0.0.1:9/", headers={"X-Key": value})


def test_an_endless_answer_is_not_read() -> None:
    """The status decides; a server that keeps sending is left after it."""
    sent = 0

    class Endless(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal sent
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while sent < 1 << 30:
                    sent += self.wfile.write(bytes(1 << 16))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with local_server(Endless) as address:
        webhook = Webhook(f"{address}/")
        for number in range(3):
            webhook.post({"number": number})
        webhook.close(timeout_s=30.0)
        assert (webhook.delivered, webhook.dropped) == (3, 0)
        assert sent < 64 << 20
