"""The page where live sources are watched."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from r2rt.errors import SourceNotFoundError
from r2rt.service.watches import Watches
from tests.r2rt.service.page.conftest import (
    Opener,
    Site,
    until,
)

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = pytest.mark.slow

WATCH = {
    "id": "a" * 16,
    "source": "rtsp://camera/1",
    "queries": ["a panda"],
    "unknown_words": [],
    "state": "running",
}


def test_a_source_that_cannot_be_watched_says_so(
    open_page: Opener, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = threading.Event()

    def watch(*_: Any) -> None:
        lost.wait(60)
        raise SourceNotFoundError("rtsp://camera/1: no such stream")

    monkeypatch.setattr(Watches, "_watch", watch)
    site.client.post("watches", json={"source": "rtsp://camera/2", "queries": ["a forklift"]})
    page = open_page("/#/live")
    expect(page.locator(".watches li")).to_contain_text("unknown to the model: forklift")
    page.get_by_label("Stream").fill("rtsp://camera/1")
    page.get_by_label("Sentences").fill("a panda")
    page.get_by_role("button", name="Watch", exact=True).click()
    expect(page.locator(".watches li.open")).to_contain_text("camera/1")
    page.get_by_role("button", name="Stop watching rtsp://camera/2").click()
    expect(page.locator(".watches li")).to_have_count(1)  # the list was read again meanwhile
    lost.set()
    expect(page.locator(".watches")).to_contain_text("no such stream")
    (found,) = site.client.get("watches").json()
    site.client.delete(f"watches/{found['id']}")


def test_moments_of_an_earlier_run_of_the_service_are_over(open_page: Opener) -> None:
    def opened(number: int, moment: int, start_s: float) -> str:
        data = {"moment_id": moment, "query": "a panda", "start_s": start_s, "end_s": start_s + 1}
        return f"id: {number}\nevent: opened\ndata: {json.dumps(data)}\n\n"

    page = open_page("/#/library")
    page.route("**/api/v1/watches", lambda route: route.fulfill(json=[WATCH]))
    # A run numbers its moments from 1; its events have higher numbers than those before.
    body = opened(1, 1, 5.0) + opened(2, 2, 8.0) + opened(5000, 1, 3.0)
    page.route(
        "**/watches/*/events",
        lambda route: route.fulfill(body=body, content_type="text/event-stream"),
    )
    page.evaluate("location.hash = '#/live'")
    times = page.locator(".events .times")
    expect(times).to_have_text(["since 0:03.0", "0:08.0 – 0:09.0", "0:05.0 – 0:06.0"])
    # Each is said once, and not by the log too.
    expect(page.locator("#said")).to_have_text("a panda at 0:03.0")
    expect(page.get_by_role("log")).to_have_attribute("aria-live", "off")


def test_no_stream_is_opened_for_a_view_that_was_left(open_page: Opener) -> None:
    page = open_page("/#/library")
    held: list[Route] = []
    streams: list[str] = []
    page.on("request", lambda it: streams.append(it.url) if "/events" in it.url else None)
    page.route("**/api/v1/watches", lambda route: held.append(route))  # noqa: PLW0108
    page.evaluate("location.hash = '#/live'")
    until(page, lambda: held)
    page.evaluate("location.hash = '#/library'")
    expect(page.get_by_role("heading", level=1)).to_have_text("Library")
    held[0].fulfill(json=[WATCH])
    page.wait_for_timeout(200)  # in which the stream would be opened
    assert not streams
