"""A browser and a server for the page's tests; both are started once."""

from __future__ import annotations

import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import httpx2
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from r2rt.service.app import create_app
from r2rt.service.settings import Settings
from tests.conftest import CHECKOUT
from tests.r2rt.conftest import PATIENCE_MS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EMOJI = CHECKOUT / "demo" / "emoji.mp4"


class Site:
    """A service that listens at a port, and a client of its interface."""

    def __init__(self, address: str, folder: Path, app: FastAPI) -> None:
        self.app = app
        self.address = address
        self.folder = folder
        self.client = httpx2.Client(base_url=f"{address}/api/v1/", timeout=60)

    def add(self, path: Path, *, encode: bool = True) -> dict[str, Any]:
        """Add a video, and wait until it is encoded."""
        response = self.client.post("videos", json={"path": str(path), "encode": encode})
        assert response.status_code == 201, response.text
        video: dict[str, Any] = response.json()
        if video["job"]:
            with self.client.stream("GET", f"jobs/{video['job']}/events") as events:
                last = [line for line in events.iter_lines() if line.startswith("event:")][-1]
            assert last == "event: done"
        return video


def until(page: Page, condition: str | Callable[[], object]) -> None:
    """Wait until a script, or a function here, returns something true.

    The page's policy forbids the scripts that Playwright waits with.
    """
    for _ in range(PATIENCE_MS // 50):
        if page.evaluate(condition) if isinstance(condition, str) else condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {condition}")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve the demo model; `folder` is the one that videos may be added from."""
    folder = tmp_path_factory.mktemp("videos")
    settings = Settings(
        folder=tmp_path_factory.mktemp("page") / "service",
        roots=(folder,),
        model="demo",
        device="cpu",
        rate=0,
    )
    with serving(settings, folder) as site:
        yield site


@contextmanager
def serving(settings: Settings, folder: Path) -> Iterator[Site]:
    """Serve at a free port, in a thread."""
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    app = create_app(settings)
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    site = Site(address, folder, app)
    try:
        yield site
    finally:
        site.client.close()
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="session")
def emoji(site: Site) -> dict[str, Any]:
    """The demo's video, encoded."""
    path = site.folder / "emoji.mp4"
    shutil.copy(EMOJI, path)
    return site.add(path)


Opener = Callable[..., "Page"]


@pytest.fixture
def open_page(browser: Browser, site: Site) -> Iterator[Opener]:
    """Open the page in a browser of its own; at the end no script failed, no rule was broken.

    The opener takes the part of the address after the host, and options of the browser's context.
    """
    contexts = []
    wrong: list[str] = []
    for video in site.client.get("videos").json():  # what earlier tests decided is forgotten
        site.client.put(f"videos/{video['id']}/annotations", json={"records": []})

    def opened(path: str = "/", address: str = site.address, **options: Any) -> Page:
        context = browser.new_context(
            **({"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce"} | options)
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"a dialog: {dialog.message}"))
        page.on(
            "console",
            lambda line: wrong.append(line.text) if "Content Security" in line.text else None,
        )
        page.goto(f"{address}{path}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture
def page(open_page: Opener, emoji: dict[str, Any]) -> Page:
    """The page at the demo's video, whose moments nobody has judged."""
    return open_page(f"/#/video/{emoji['id']}")


def ask(page: Page, text: str) -> None:
    """Ask a sentence, and wait for its answer."""
    from playwright.sync_api import expect

    page.locator("#query").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".lane .facts").last).to_contain_text("moment")


def padded(source: Path, path: Path, size: int) -> None:
    """Copy an MP4 with a box after it that players skip."""
    content = source.read_bytes()
    rest = size - len(content)
    path.write_bytes(content + struct.pack(">I4s", rest, b"free") + bytes(rest - 8))


def write_sound(path: Path) -> None:
    """Write 20 s of grey images and silence."""
    with av.open(str(path), "w") as container:
        images = container.add_stream("mpeg4", rate=10)
        images.width, images.height = 64, 48
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for second in range(20):
            for _ in range(10):
                grey = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 99, np.uint8))
                container.mux(images.encode(grey))
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
            silence.sample_rate, silence.pts = 8000, 8000 * second
            container.mux(sound.encode(silence))
        container.mux(images.encode())
