"""Fetching from addresses: no trick leads into a private network, and nothing has no end."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from r2rt.service.fetching import checked_url, fetch
from r2rt.service.jobs.runner import Progress
from r2rt.service.outbound import PublicTransport, is_public
from r2rt.service.problems import ProblemError
from r2rt.service.settings import Settings
from tests.r2rt.local_server import local_server
from tests.r2rt.service.conftest import DEMO_FOLDER, Run, Served

PUBLIC = "93.184.215.14"


class _Handler(http.server.BaseHTTPRequestHandler):
    content = (DEMO_FOLDER / "shapes.mp4").read_bytes()
    reached: list[str]

    def do_GET(self) -> None:
        type(self).reached.append(self.path)
        if self.path == "/redirect":
            self.send_response(302)
            port = cast("http.server.HTTPServer", self.server).server_port
            self.send_header("Location", f"http://private.example:{port}/film.mp4")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/endless":
            missing = 1000 if self.path == "/short" else 0
            self.send_header("Content-Length", str(len(self.content) + missing))
        self.end_headers()
        self.wfile.write(self.content)
        while self.path == "/endless":
            try:
                self.wfile.write(b"x" * 65536)
            except OSError:
                return

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    _Handler.reached = []
    with local_server(_Handler) as address:
        yield int(address.rpartition(":")[2])


def progress() -> Progress:
    return Progress(lambda: None)


def resolved(host: str, port: int) -> list[str]:
    """Every name is this machine's, which is taken for public, but one that is not."""
    return ["10.0.0.1"] if host == "private.example" else ["127.0.0.1"]


public = functools.partial(PublicTransport, resolve=resolved)


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    real = is_public
    monkeypatch.setattr("r2rt.service.outbound.is_public", lambda ip: ip == "127.0.0.1" or real(ip))


def test_a_file_is_fetched(
    server: int, settings: Settings, tmp_path: Path, loopback_is_public: None
) -> None:
    url, name = checked_url(f"http://films.example:{server}/a%20film.mp4")
    fetch(url, tmp_path / name, settings, progress(), public)
    assert name == "a film.mp4"
    assert (tmp_path / name).read_bytes() == _Handler.content


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",  # 127.0.0.1 as one number
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "169.254.169.254",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "[fe80::1]",
        "[fd00::1]",
        "224.0.0.1",
    ],
)
def test_no_way_to_write_a_private_address_leads_there(
    server: int, settings: Settings, tmp_path: Path, host: str
) -> None:
    with pytest.raises(ProblemError) as caught:
        fetch(f"http://{host}:{server}/film.mp4", tmp_path / "film.mp4", settings, progress())
    assert caught.value.code in ("address-forbidden", "fetch-failed")  # some systems know fewer
    assert _Handler.reached == []


@pytest.mark.parametrize("host", ["example..com", f"{'x' * 64}.com"])
def test_what_cannot_be_a_name_is_no_fault(settings: Settings, tmp_path: Path, host: str) -> None:
    with pytest.raises(ProblemError) as caught:
        fetch(f"http://{host}/film.mp4", tmp_path / "film.mp4", settings, progress())
    assert caught.value.code == "fetch-failed"


def test_a_redirect_into_a_private_network_is_not_followed(
    server: int, settings: Settings, tmp_path: Path, loopback_is_public: None
) -> None:
    with pytest.raises(ProblemError, match="not public") as caught:
        fetch(
            f"http://films.example:{server}/redirect",
            tmp_path / "film.mp4",
            settings,
            progress(),
            public,
        )
    assert caught.value.status == 403
    assert _Handler.reached == ["/redirect"]


def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(
    server: int, settings: Settings, tmp_path: Path
) -> None:
    """DNS rebinding: a public address for the check, a private one for the connection."""
    answers = [[PUBLIC, "127.0.0.1"], ["127.0.0.1"]]
    asked: list[str] = []

    def rebinding(host: str, _: int) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    with pytest.raises(ProblemError) as caught:
        fetch(
            f"http://rebinding.example:{server}/film.mp4",
            tmp_path / "film.mp4",
            settings,
            progress(),
            functools.partial(PublicTransport, resolve=rebinding),
        )
    assert caught.value.code == "address-forbidden"
    assert asked == ["rebinding.example"]
    assert _Handler.reached == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/endless", "too-large"),
        ("/film.mp4", "too-large"),
        ("/loop", "fetch-failed"),
        ("/missing", "fetch-failed"),
        ("/file", "fetch-failed"),
    ],
)
def test_what_has_no_end_or_is_too_large_leaves_nothing(
    server: int, settings: Settings, tmp_path: Path, loopback_is_public: None, path: str, code: str
) -> None:
    small = dataclasses.replace(settings, max_upload_bytes=5000)
    folder = tmp_path / "new"
    with pytest.raises(ProblemError) as caught:
        fetch(
            f"http://films.example:{server}{path}",
            folder / "film.mp4",
            small,
            progress(),
            public,
        )
    assert caught.value.code == code
    assert list(folder.iterdir()) == []


def test_a_file_of_which_a_part_came_is_not_kept(
    server: int, settings: Settings, tmp_path: Path, loopback_is_public: None
) -> None:
    """It would be taken for the whole video."""

    def short(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"Content-Length": "100"}, content=iter([b"a part"]))

    folder = tmp_path / "new"
    for transport in (public, lambda **_: httpx2.MockTransport(short)):
        with pytest.raises(ProblemError) as caught:
            fetch(
                f"http://films.example:{server}/short",
                folder / "film.mp4",
                settings,
                progress(),
                transport,
            )
        assert caught.value.code == "fetch-failed"
        assert list(folder.iterdir()) == []


class Dripping:
    """A server that sends a head, and then one byte at a time; `sent` are bytes after the head."""

    def __init__(self, head: bytes, byte: bytes, pause_s: float) -> None:
        self._sends = head, byte, pause_s
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Dripping:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        head, byte, pause_s = self._sends
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(head)
            try:
                while self.sent < 4_000_000:
                    connection.sendall(byte)
                    self.sent += len(byte)
                    time.sleep(pause_s)
            except OSError:
                pass


@pytest.mark.parametrize("head", ["HTTP/1.1 200 OK\r\nX: ", "HTTP/1.1 200 OK\r\n\r\n"])
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_server_that_drips_holds_no_worker(
    settings: Settings, tmp_path: Path, loopback_is_public: None, head: str, cancelled: bool
) -> None:
    hasty = dataclasses.replace(settings, fetch_timeout_s=60.0 if cancelled else 0.3)
    following = progress()
    with Dripping(head.encode(), b"x", 0.05) as dripping:
        if cancelled:
            threading.Timer(0.3, lambda: setattr(following, "ends", "cancelled")).start()
        expected = "cancelled" if cancelled else "took longer"
        with pytest.raises(BaseException, match=expected):
            fetch(f"http://x:{dripping.port}/f", tmp_path / "f", hasty, following, public)
        assert dripping.sent < 60
    assert list(tmp_path.glob("*f*")) == []


def test_the_body_of_a_redirect_is_not_read(
    server: int, settings: Settings, tmp_path: Path, loopback_is_public: None
) -> None:
    """It may be endless."""
    head = f"HTTP/1.1 302 Found\r\nLocation: http://x:{server}/film.mp4\r\n\r\n"
    with Dripping(head.encode(), b"x" * 100_000, 0.0) as endless:
        fetch(f"http://x:{endless.port}/f", tmp_path / "f", settings, progress(), public)
    assert endless.sent < 4_000_000
    assert (tmp_path / "f").read_bytes() == _Handler.content


def test_fetching_has_an_end_in_time(
    server: int, settings: Settings, tmp_path: Path, loopback_is_public: None
) -> None:
    hasty = dataclasses.replace(settings, fetch_timeout_s=0.0)
    with pytest.raises(ProblemError, match="took longer"):
        fetch(
            f"http://films.example:{server}/film.mp4",
            tmp_path / "film.mp4",
            hasty,
            progress(),
            public,
        )


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/film.mp4",
        "gopher://127.0.0.1:6379/_INFO",
        "http://",
        "http:///film.mp4",
        "http://user:password@example.com/film.mp4",
        "http://example.com:0/",
        "http://[::1/film.mp4",
        "http://example.com/a b",
        "http://example.com/\r\nHost: evil",
        "concat:/etc/passwd",
        "//example.com/film.mp4",
        "",
    ],
)
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(ProblemError) as caught:
        checked_url(url)
    assert caught.value.code == "bad-url"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        (PUBLIC, True),
        ("2606:4700::6810:84e5", True),
        ("::7f00:1", False),
        ("64:ff9b::a00:1", False),
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("192.0.2.1", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_video_from_a_private_address_fails_with_its_reason(served: Run, server: int) -> None:
    async def test(it: Served) -> None:
        url = f"http://127.0.0.1:{server}/film.mp4"
        video = (await it.post("/videos", {"url": url})).json()
        job = await it.finished(video["job"])
        assert (job["state"], job["error"]["code"]) == ("failed", "address-forbidden")
        shown = (await it.get(f"/videos/{video['id']}")).json()
        assert shown["state"] == "failed"
        assert "not public" in shown["error"]
        assert _Handler.reached == []

    served(test)
