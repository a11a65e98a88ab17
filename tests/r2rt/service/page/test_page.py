"""The page as a whole: whom it serves, what it shows when things go wrong, and uploads."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from r2rt.archive.result import Hit, SearchResult, SearchTimings
from r2rt.errors import SourceNotFoundError
from r2rt.service.settings import Settings
from r2rt.service.watches import Watches
from tests.conftest import CHECKOUT
from tests.r2rt.service.page.conftest import EMOJI, Opener, Site, serving, until

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.slow

NARROW = {"width": 390, "height": 844}
WIDE = {"width": 1440, "height": 900}


def ask(page: Page, text: str) -> None:
    page.locator("#query").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".lane .facts").last).to_contain_text("moment")


def check_access(page: Page) -> None:
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screen_readers_can_use_the_view_of_a_video(
    open_page: Opener, emoji: dict[str, Any], scheme: str
) -> None:
    page = open_page(f"/#/video/{emoji['id']}", color_scheme=scheme)
    ask(page, "a penguin; a panda")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    page.keyboard.press("p")
    check_access(page)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    check_access(page)


def test_screen_readers_can_use_the_other_views(open_page: Opener, site: Site) -> None:
    page = open_page("/#/library", viewport=NARROW)
    expect(page.get_by_role("heading", level=1)).to_have_text("Library")
    check_access(page)
    page.goto(f"{site.address}/#/live")
    expect(page.get_by_role("heading", level=1)).to_have_text("Live")
    check_access(page)
    page.get_by_role("button", name="Videos", exact=True).click()
    expect(page.get_by_role("button", name="Add videos…")).to_be_visible()
    check_access(page)


@pytest.mark.parametrize("size", [NARROW, WIDE])
def test_nothing_is_wider_than_the_screen(
    open_page: Opener, emoji: dict[str, Any], size: dict[str, int]
) -> None:
    page = open_page(f"/#/video/{emoji['id']}", viewport=size)
    ask(page, "a penguin")
    for view in ("video", "library", "live"):
        page.get_by_role("link", name=view.capitalize(), exact=True).click()
        assert page.evaluate("document.documentElement.scrollWidth") == size["width"]


def test_what_is_said_of_a_lane_is_below_a_long_sentence_on_a_telephone(
    open_page: Opener, emoji: dict[str, Any]
) -> None:
    page = open_page(f"/#/video/{emoji['id']}", viewport=NARROW)
    ask(page, "a purple butterfly moving down beside a panda that stands still")
    words = page.locator(".lane .words").bounding_box()
    facts = page.locator(".lane .facts").bounding_box()
    assert words is not None
    assert facts is not None
    assert facts["width"] > 200
    assert facts["y"] >= words["y"] + words["height"] - 1


def test_nothing_moves_for_those_who_do_not_want_that(open_page: Opener) -> None:
    duration = "getComputedStyle(document.querySelector('#help')).transitionDuration"
    assert open_page(reduced_motion="reduce").evaluate(duration) == "0s"
    assert open_page(reduced_motion="no-preference").evaluate(duration) != "0s"


def test_the_switch_of_colours_is_kept(open_page: Opener) -> None:
    page = open_page(color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="Colours").click()  # light, whatever the system says
    page.get_by_role("button", name="Colours").click()  # dark
    dark = page.evaluate(paper)
    assert dark != light
    page.reload()
    assert page.evaluate(paper) == dark


def test_the_policy_allows_nothing_inline_and_no_other_host(site: Site) -> None:
    policy = site.client.get(f"{site.address}/").headers["content-security-policy"]
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_single_key_can_be_switched_off(open_page: Opener, emoji: dict[str, Any]) -> None:
    page = open_page(f"/#/video/{emoji['id']}")
    page.keyboard.press("?")
    page.get_by_label("Shortcuts of a single letter or sign").uncheck()
    page.get_by_role("button", name="Close", exact=True).click()
    page.locator("body").press("/")
    assert page.evaluate("document.activeElement.id") != "query"


def test_an_error_is_one_line_that_can_be_closed(open_page: Opener) -> None:
    page = open_page()
    page.get_by_label("Path on the server, or a URL").fill("/etc/passwd")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("no such file in a folder")
    page.get_by_role("button", name="Close this message").click()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_server_that_is_away_is_waited_for(open_page: Opener, emoji: dict[str, Any]) -> None:
    page = open_page(f"/#/video/{emoji['id']}")
    expect(page.get_by_role("heading", level=1)).to_have_text("emoji.mp4")
    page.context.set_offline(True)
    page.locator("#query").fill("a panda")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    page.context.set_offline(False)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_the_player_stays_where_it_is_when_the_server_answers_again(
    open_page: Opener, emoji: dict[str, Any]
) -> None:
    page = open_page(f"/#/video/{emoji['id']}?t=12,20")
    until(page, "document.querySelector('.stage video')?.currentTime >= 12")
    page.locator("body").press("k")
    page.keyboard.press("Home")
    expect(page.locator(".clock")).to_contain_text("frame 0")
    page.context.set_offline(True)
    expect(page.get_by_role("alert")).to_be_visible()
    with page.expect_response("**/api/v1/videos"):
        page.context.set_offline(False)
    expect(page.get_by_role("alert")).to_be_hidden()
    page.wait_for_timeout(300)
    expect(page.locator(".clock")).to_contain_text("frame 0")


def test_a_video_that_is_opened_while_the_server_is_away_is_shown_once_it_answers(
    open_page: Opener, site: Site, emoji: dict[str, Any]
) -> None:
    page = open_page("/#/library")
    expect(page.locator(".videos li")).not_to_have_count(0)
    site.client.put(
        f"videos/{emoji['id']}/annotations",
        json={"records": [{"query": "a dog", "windows": [[1.0, 2.0]], "rejected": []}]},
    )
    page.context.set_offline(True)
    page.evaluate("address => { location.hash = address; }", f"#/video/{emoji['id']}?t=12,20")
    expect(page.get_by_role("heading", level=1)).to_have_text("emoji.mp4")
    page.locator("#query").fill("a panda")
    page.keyboard.press("Enter")
    expect(page.locator(".lane .facts")).to_contain_text("does not answer")
    page.context.set_offline(False)
    until(page, "document.querySelector('.stage video').currentTime >= 12")
    expect(page.locator(".lane .words")).to_have_count(2)
    for facts in page.locator(".lane .facts").all():
        expect(facts).to_contain_text("moment")


def test_the_player_reads_on_after_a_lost_connection(
    open_page: Opener, emoji: dict[str, Any]
) -> None:
    page = open_page(f"/#/video/{emoji['id']}")
    until(page, "document.querySelector('.stage video')?.readyState > 1")
    page.evaluate(
        """() => {
          const video = document.querySelector(".stage video");
          video.currentTime = 5;
          video.addEventListener("loadstart", () => { window.read = true; });
          const code = MediaError.MEDIA_ERR_NETWORK;
          Object.defineProperty(video, "error", { value: { code }, configurable: true });
          video.dispatchEvent(new Event("error"));
          delete video.error;
        }"""
    )
    expect(page.locator(".clock")).to_contain_text("frame 60")
    expect(page.locator(".player .hint")).to_be_hidden()
    until(page, "window.read && document.querySelector('.stage video').currentTime === 5")


def test_frames_and_sound_are_asked_for_again_after_a_lost_connection(
    open_page: Opener, site: Site
) -> None:
    path = site.folder / "sound.avi"
    _write_sound(path)
    video = site.add(path, encode=False)
    page = open_page("/#/library")
    for what in ("filmstrip", "peaks"):
        page.route(f"**/{what}?*", lambda route: route.abort())
    with page.expect_event("requestfailed", lambda it: "filmstrip" in it.url):
        page.evaluate("address => { location.hash = address; }", f"#/video/{video['id']}")
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    expect(page.locator("canvas.sound")).to_be_visible()
    with page.expect_response("**/filmstrip?*"), page.expect_response("**/peaks?*"):
        page.unroute_all()
    site.client.delete(f"videos/{video['id']}")


def test_the_content_is_skipped_to_without_leaving_the_view(open_page: Opener) -> None:
    page = open_page("/#/library")
    expect(page.get_by_role("heading", level=1)).to_have_text("Library")
    page.get_by_role("link", name="Skip to the content").press("Enter")
    assert page.evaluate("document.activeElement.id") == "view"
    page.wait_for_timeout(100)
    expect(page.get_by_role("heading", level=1)).to_have_text("Library")


def test_an_address_of_no_video_says_so(open_page: Opener, emoji: dict[str, Any]) -> None:
    page = open_page("/#/video/0000000000000000")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no such video")


def test_an_upload_goes_on_where_it_stopped(open_page: Opener, site: Site, tmp_path: Path) -> None:
    path = tmp_path / "big.mp4"
    _padded(EMOJI, path, 9 << 20)
    page = open_page()
    offsets: list[int] = []

    def lose_the_second_and_hold_the_third(route: Route) -> None:
        if route.request.method == "PATCH":
            offsets.append(int(route.request.headers["upload-offset"]))
            if len(offsets) == 2:
                route.abort()
            if len(offsets) in (2, 3):
                return
        route.continue_()

    page.route("**/api/v1/uploads/*", lose_the_second_and_hold_the_third)
    page.locator("input[type=file]").set_input_files(path)
    until(page, lambda: len(offsets) == 3)
    page.reload()
    page.locator("input[type=file]").set_input_files(path)
    expect(page.get_by_role("heading", level=1)).to_have_text("big.mp4", timeout=90_000)
    part = 4 << 20
    assert offsets == [0, part, part, part, 2 * part]
    video = next(v for v in site.client.get("videos").json() if v["name"] == "big.mp4")
    received = site.client.get(f"videos/{video['id']}/file").content
    assert received == path.read_bytes()
    site.client.delete(f"videos/{video['id']}")


def _padded(source: Path, path: Path, size: int) -> None:
    """Copy an MP4 with a box after it that players skip."""
    content = source.read_bytes()
    rest = size - len(content)
    path.write_bytes(content + struct.pack(">I4s", rest, b"free") + bytes(rest - 8))


def test_a_video_that_is_not_here_yet_is_not_shown_as_the_one_before(
    open_page: Opener, site: Site, emoji: dict[str, Any]
) -> None:
    shutil.copy(EMOJI, site.folder / "next.mp4")
    other = site.add(site.folder / "next.mp4", encode=False)
    page = open_page(f"/#/video/{emoji['id']}")
    until(page, "document.querySelector('.stage video')?.readyState > 1")
    page.route(f"**/videos/{other['id']}", lambda route: route.fulfill(status=500))
    page.evaluate("address => { location.hash = address; }", f"#/video/{other['id']}")
    expect(page.get_by_role("heading", level=1)).to_have_text("next.mp4")
    expect(page.get_by_role("alert")).to_contain_text("500")
    assert page.evaluate("document.querySelector('.stage video').getAttribute('src')") is None
    page.unroute(f"**/videos/{other['id']}")
    page.reload()
    until(page, "document.querySelector('.stage video')?.readyState > 1")
    site.client.delete(f"videos/{other['id']}")


@pytest.mark.parametrize("path", ["", "/{id}"])
def test_a_video_that_is_removed_is_not_shown_any_more(
    open_page: Opener, site: Site, emoji: dict[str, Any], path: str
) -> None:
    newest = site.client.get("videos").json()[0]["name"]
    shutil.copy(EMOJI, site.folder / "removed.mp4")
    removed = site.add(site.folder / "removed.mp4", encode=False)
    page = open_page("/#/video" + path.format(id=removed["id"]))
    expect(page.get_by_role("heading", level=1)).to_have_text("removed.mp4")
    page.get_by_role("button", name="Remove removed.mp4").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(newest)
    expect(page.locator(".videos li.open .name")).to_have_text(newest)


def test_a_dropped_file_is_uploaded(open_page: Opener, site: Site) -> None:
    page = open_page()
    content = base64.b64encode((CHECKOUT / "demo" / "shapes.mp4").read_bytes()).decode()
    data = page.evaluate_handle(
        """text => {
          const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], "dropped.mp4", { type: "video/mp4" }));
          return data;
        }""",
        content,
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": data})
    expect(page.get_by_text("Drop videos here")).to_be_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": data})
    expect(page.get_by_role("heading", level=1)).to_have_text("dropped.mp4")
    video = next(v for v in site.client.get("videos").json() if v["name"] == "dropped.mp4")
    site.client.delete(f"videos/{video['id']}")


def test_files_that_wait_are_sent_once_and_not_if_they_are_removed(
    open_page: Opener, site: Site, tmp_path: Path
) -> None:
    names = [f"{name}.mp4" for name in ("first", "second", "removed", "later")]
    for name in names:
        shutil.copy(CHECKOUT / "demo" / "shapes.mp4", tmp_path / name)
    page = open_page()
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if route.request.method == "PATCH" and not held:
            held.append(route)
        else:
            route.continue_()

    def listed() -> list[str]:
        return sorted(v["name"] for v in site.client.get("videos").json() if v["name"] in names)

    begun: list[str] = []
    page.on("request", lambda it: begun.append(it.url) if it.method == "POST" else None)
    page.route("**/api/v1/uploads/*", hold_the_first)
    chooser = page.locator("input[type=file]")
    chooser.set_input_files([tmp_path / name for name in names[:3]])
    waiting = page.locator(".uploads li", has_text="removed.mp4")
    waiting.get_by_role("button", name="Remove").click()
    chooser.set_input_files(tmp_path / "later.mp4")
    expect(page.locator(".videos li", has_text="later.mp4")).to_be_visible()
    held[0].continue_()
    expect(page.locator(".videos li", has_text="first.mp4")).to_be_visible()
    page.wait_for_timeout(1500)  # in which a file would be sent once more
    assert len(begun) == 3
    assert listed() == ["first.mp4", "later.mp4", "second.mp4"]
    for video in site.client.get("videos").json():
        if video["name"] in names:
            site.client.delete(f"videos/{video['id']}")


def test_a_sentence_that_could_not_be_asked_is_asked_again(
    open_page: Opener, emoji: dict[str, Any]
) -> None:
    page = open_page(f"/#/video/{emoji['id']}")
    page.route("**/ground", lambda route: route.fulfill(status=500), times=1)
    page.locator("#query").fill("a panda")
    page.keyboard.press("Enter")
    expect(page.locator(".lane .facts")).to_contain_text("500")
    ask(page, "a panda")
    assert page.locator(".lane").count() == 1


def test_a_source_that_cannot_be_watched_says_so(
    open_page: Opener, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = threading.Event()

    def watch(*_: Any) -> None:
        lost.wait(60)
        raise SourceNotFoundError("rtsp://camera/1: no such stream")

    monkeypatch.setattr(Watches, "_watch", watch)
    site.client.post("watches", json={"source": "rtsp://camera/2", "queries": ["a panda"]})
    page = open_page("/#/live")
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


WATCH = {"id": "a" * 16, "source": "rtsp://camera/1", "queries": ["a panda"], "state": "running"}


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


def test_an_older_list_of_videos_does_not_replace_a_newer_one(
    open_page: Opener, emoji: dict[str, Any]
) -> None:
    page = open_page()
    expect(page.locator(".videos li")).not_to_have_count(0)
    listed = page.locator(".videos li").count()
    held: list[Route] = []
    page.route("**/api/v1/videos", lambda route: held.append(route))  # noqa: PLW0108
    for _ in range(2):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    until(page, lambda: len(held) == 2)
    with page.expect_response("**/api/v1/videos"):
        held[1].continue_()
    with page.expect_response("**/api/v1/videos"):
        held[0].fulfill(json=[])
    page.wait_for_timeout(200)  # in which it would be shown
    assert page.locator(".videos li").count() == listed


def test_a_replaced_file_has_other_addresses(open_page: Opener, emoji: dict[str, Any]) -> None:
    page = open_page("/#/library")
    seen: list[str] = []
    page.on("request", lambda it: seen.append(it.url) if f"{emoji['id']}/" in it.url else None)

    def with_version(route: Route) -> None:
        response = route.fetch()
        found = response.json()
        for video in found if isinstance(found, list) else [found]:
            video["version"] = "second"
        route.fulfill(response=response, json=found)

    page.route("**/api/v1/videos", with_version)
    page.route(f"**/api/v1/videos/{emoji['id']}", with_version)
    hit = {"video": emoji["id"], "name": "emoji.mp4", "start_s": 1.0, "end_s": 2.0, "score": 0.5}
    page.route("**/search?*", lambda route: route.fulfill(json={"results": [hit]}))
    page.get_by_label("Find in all videos").fill("a panda")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Play emoji.mp4").click()
    until(page, lambda: any("/clip?" in url for url in seen))
    page.locator(".cards").get_by_role("link", name="emoji.mp4").click()
    ask(page, "a panda")
    until(page, lambda: any("/frame?" in url and "height=108" in url for url in seen))
    until(page, lambda: any("/filmstrip?" in url for url in seen))
    until(page, lambda: any("/file" in url for url in seen))
    images = [url for url in seen if any(f"/{it}?" in url for it in ("clip", "frame", "filmstrip"))]
    posters = [url for url in images if "height=90" in url]  # shown before there was a version
    assert all("v=second" in url for url in images if url not in posters)
    assert any("v=second" in url for url in posters)
    assert all("v=second" in url for url in seen if "/file" in url and "/filmstrip" not in url)


def test_what_a_proxy_answers_for_the_server_is_waited_out(
    open_page: Opener, emoji: dict[str, Any]
) -> None:
    page = open_page("/#/library")
    asked: list[str] = []
    page.on("request", lambda it: asked.append(it.url) if it.url.endswith("/v1/videos") else None)
    for path in ("**/api/v1/videos", "**/healthz"):
        page.route(path, lambda route: route.fulfill(status=502), times=1)
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("502")
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator(".videos li")).not_to_have_count(0)
    assert len(asked) == 2


def test_jobs_are_followed_over_one_stream(open_page: Opener, emoji: dict[str, Any]) -> None:
    """Browsers open six connections to a server, and images need some of them."""
    one, other = "a" * 16, "b" * 16
    page = open_page("/#/library")
    streams: list[Route] = []
    polled: list[str] = []

    def list_as_busy(route: Route) -> None:
        (video,) = [v for v in route.fetch().json() if v["id"] == emoji["id"]]
        route.fulfill(json=[video | {"state": "encoding", "job": one}])

    def need_a_job(route: Route) -> None:
        job = other if "a dog" in (route.request.post_data or "") else one
        route.fulfill(status=409, json={"code": "not-encoded", "job": job})

    def tell(route: Route) -> None:
        polled.append(route.request.url)
        route.fulfill(json={"state": "running", "progress": 0.5})

    page.route("**/api/v1/videos", list_as_busy)
    page.route("**/ground", need_a_job)
    page.route("**/jobs/*", tell)
    page.route("**/jobs/*/events", lambda route: streams.append(route))  # noqa: PLW0108
    page.reload()
    page.evaluate("address => { location.hash = address; }", f"#/video/{emoji['id']}")
    for sentence in ("a panda", "a penguin", "a butterfly", "a dog"):
        page.locator("#query").fill(sentence)
        page.keyboard.press("Enter")
    expect(page.locator(".lane .facts").last).to_contain_text("50 %")
    assert [route.request.url.split("/")[-2] for route in streams] == [one]
    assert all(url.endswith(other) for url in polled)
    page.unroute("**/ground")
    page.unroute("**/api/v1/videos")
    end = 'event: done\ndata: {"state": "done"}\n\n'
    streams[0].fulfill(body=end, content_type="text/event-stream")
    until(page, lambda: len(streams) == 2)
    assert other in streams[1].request.url  # which has the stream now
    streams[1].fulfill(body=end, content_type="text/event-stream")
    for facts in page.locator(".lane .facts").all():
        expect(facts).to_contain_text("moment")
    assert len(streams) == 2


def test_scripts_have_their_type_whatever_the_machine_guesses(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starlette.responses.guess_type", lambda *_: ("text/plain", None))
    types = {
        path: site.client.get(f"{site.address}/{path}").headers["content-type"].split(";")[0]
        for path in ("", "static/app.js", "static/page.css", "static/icon.svg")
    }
    assert list(types.values()) == ["text/html", "text/javascript", "text/css", "image/svg+xml"]


def test_the_sound_of_a_long_video_takes_one_connection(open_page: Opener, site: Site) -> None:
    """Its first answer takes a while, and browsers open six connections to a server."""
    path = site.folder / "sound.avi"
    _write_sound(path)
    video = site.add(path, encode=False)
    page = open_page("/#/library")
    held: list[Route] = []
    page.route("**/peaks?*", lambda route: held.append(route))  # noqa: PLW0108
    page.evaluate("address => { location.hash = address; }", f"#/video/{video['id']}")
    until(page, lambda: held)
    for _ in range(3):
        page.get_by_role("button", name="Zoom in").click()
        page.wait_for_timeout(300)
    assert len(held) == 1
    held[0].continue_()
    until(page, lambda: len(held) > 1)  # then the sound of the part that is shown
    assert "end_s=20" not in held[1].request.url
    held[1].continue_()


def test_a_hit_at_an_address_is_played_and_opened(
    open_page: Opener, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    address = "memory://bucket/far%20away.mp4"
    with fsspec.open(address, "wb") as file:
        file.write((CHECKOUT / "demo" / "shapes.mp4").read_bytes())
    found = SearchResult(
        query="x",
        hits=(Hit(path=address, start_s=1.0, end_s=2.0, score=0.5, duration_s=9.0),),
        timings=SearchTimings(query_s=0, first_s=0, second_s=0),
    )
    monkeypatch.setattr("r2rt.service.computing.Computing.search", lambda *_: found)
    page = open_page("/#/library")
    page.get_by_label("Find in all videos").fill("x")
    page.get_by_role("button", name="Search").click()
    until(page, "document.querySelector('.cards img')?.naturalWidth > 0")
    page.get_by_role("button", name="Play far away.mp4").click()
    until(page, "document.querySelector('.cards video')?.duration > 0")
    page.locator(".cards").get_by_role("link", name="far away.mp4").click()
    expect(page.locator(".about .title")).to_have_text("far away.mp4")
    expect(page.locator(".about .quiet")).to_contain_text("frames/s")
    until(page, "document.querySelector('.stage video').currentTime >= 1")


def _write_sound(path: Path) -> None:
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


def test_an_upload_that_waits_is_sent_once_though_it_is_paused_and_goes_on(
    open_page: Opener, site: Site, tmp_path: Path
) -> None:
    path = tmp_path / "paused.mp4"
    shutil.copy(CHECKOUT / "demo" / "shapes.mp4", path)
    page = open_page()
    begun: list[str] = []
    page.on("request", lambda it: begun.append(it.url) if it.method == "POST" else None)
    page.route("**/api/v1/uploads/*", lambda route: route.abort(), times=1)
    # Pause and "Go on" at once: in half a second it goes on by itself.
    page.evaluate(
        """() => {
          const seen = new MutationObserver(() => {
            if (!document.querySelector(".uploads").textContent.includes("was lost")) return;
            seen.disconnect();
            for (const _ of [1, 2]) document.querySelector(".uploads button").click();
          });
          seen.observe(document.body, { childList: true, subtree: true });
        }"""
    )
    page.locator("input[type=file]").set_input_files(path)
    expect(page.get_by_role("heading", level=1)).to_have_text("paused.mp4")
    page.wait_for_timeout(3000)  # in which it would be sent once more
    assert len(begun) == 1
    for video in site.client.get("videos").json():
        if video["name"] == "paused.mp4":
            site.client.delete(f"videos/{video['id']}")


def test_focus_and_rows_stay_while_something_is_uploaded_and_encoded(
    open_page: Opener, site: Site, emoji: dict[str, Any], tmp_path: Path
) -> None:
    page = open_page(f"/#/video/{emoji['id']}")
    page.evaluate(
        """async () => {
          const { state, changed } = await import("/static/state.js");
          window.progress = (value) => {
            state.videos[0] = { ...state.videos[0], state: "encoding" };
            state.encoding.set(state.videos[0].id, { progress: value, remaining_s: null });
            changed("videos");
          };
        }"""
    )
    expect(page.locator(".videos li")).not_to_have_count(0)
    trash = page.locator(".videos li").first.get_by_role("button")
    trash.focus()
    page.evaluate("window.row = document.activeElement; window.progress(0.5)")
    expect(page.locator(".videos li").first).to_contain_text("50 %")
    assert page.evaluate("window.row.isConnected && document.activeElement === window.row")
    # Nor is each step read out.
    assert not page.evaluate("Boolean(document.querySelector('.about .quiet').closest('[role]'))")

    _padded(EMOJI, tmp_path / "big.mp4", 9 << 20)
    held: list[Route] = []

    def hold_the_parts(route: Route) -> None:
        if route.request.method == "PATCH":
            held.append(route)
        else:
            route.continue_()

    page.route("**/api/v1/uploads/*", hold_the_parts)
    page.locator("input[type=file]").set_input_files(tmp_path / "big.mp4")
    page.get_by_role("button", name="Pause", exact=True).focus()
    page.evaluate("window.row = document.activeElement")
    until(page, lambda: held)
    held[0].continue_()
    expect(page.locator(".uploads li")).to_contain_text("44 % sent")  # 4 of 9 MiB
    assert page.evaluate("window.row.isConnected && document.activeElement === window.row")
    page.keyboard.press("Enter")
    expect(page.locator(".uploads li")).to_contain_text("paused")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".uploads li")).to_have_count(0)


def test_a_sentence_typed_early_is_answered_once_the_video_is_encoded(
    open_page: Opener, site: Site
) -> None:
    path = site.folder / "early.mp4"
    _padded(EMOJI, path, EMOJI.stat().st_size + 100)
    video = site.client.post("videos", json={"path": str(path), "encode": False}).json()
    page = open_page(f"/#/video/{video['id']}")
    expect(page.locator(".videos li.open")).to_contain_text("not encoded")
    ask(page, "a panda")
    expect(page.locator(".moments > li")).not_to_have_count(0)
    expect(page.locator(".videos li.open")).not_to_contain_text("not encoded")
    site.client.delete(f"videos/{video['id']}")


def test_a_sentence_typed_before_the_video_is_fetched_stays_and_is_answered(
    open_page: Opener, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    come = threading.Event()

    def fetch(_: str, path: Path, *__: object) -> None:
        come.wait(60)
        path.parent.mkdir(parents=True)
        _padded(EMOJI, path, EMOJI.stat().st_size + 300)

    monkeypatch.setattr("r2rt.service.fetching.fetch", fetch)
    page = open_page()
    page.get_by_label("Path on the server, or a URL").fill("https://example.org/far.mp4")
    page.keyboard.press("Enter")
    expect(page.locator(".about .title")).to_have_text("far.mp4")
    expect(page.locator(".videos li.open")).to_contain_text("not fetched yet")
    page.locator("#query").fill("a panda")
    page.keyboard.press("Enter")
    expect(page.locator(".lane .facts")).to_contain_text("waits for the video")
    come.set()
    expect(page.locator(".lane .facts")).to_contain_text("moment")
    expect(page.locator(".about .quiet")).to_contain_text("frames/s")
    assert page.locator(".lane .words").all_inner_texts() == ["a panda"]
    (video,) = [v for v in site.client.get("videos").json() if v["name"] == "far.mp4"]
    site.client.delete(f"videos/{video['id']}")


def test_a_job_is_followed_although_a_proxy_answered_for_the_server(
    open_page: Opener, site: Site
) -> None:
    path = site.folder / "followed.mp4"
    _padded(EMOJI, path, EMOJI.stat().st_size + 200)
    video = site.client.post("videos", json={"path": str(path), "encode": False}).json()
    page = open_page(f"/#/video/{video['id']}")
    page.route("**/jobs/*/events", lambda route: route.fulfill(status=503), times=2)
    ask(page, "a panda")
    expect(page.locator(".moments > li")).not_to_have_count(0)
    site.client.delete(f"videos/{video['id']}")


def test_a_token_is_asked_for_once(open_page: Opener, tmp_path: Path) -> None:
    settings = Settings(
        folder=tmp_path / "service", roots=(tmp_path,), model="demo", device="cpu", rate=0
    )
    path = tmp_path / "emoji.mp4"
    shutil.copy(EMOJI, path)
    with serving(settings, tmp_path) as site:
        token = site.app.state.service.tokens.add("editor", ("write",))
        site.client.headers["Authorization"] = f"Bearer {token}"
        video = site.add(path, encode=False)
        page = open_page(f"/#/video/{video['id']}", address=site.address)
        field = page.get_by_label("Token, as printed")
        expect(field).to_be_visible()
        # Browsers close a dialog at the second Escape; the next request asks again.
        page.evaluate("document.querySelector('dialog').close()")
        expect(field).to_have_count(0)
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        field.fill("wrong")
        field.press("Enter")
        expect(page.get_by_text("no such token")).to_be_visible()
        field.fill(token)
        field.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("emoji.mp4")
        until(page, "document.querySelector('.stage video').readyState > 1")
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_have_text("emoji.mp4")
        page.context.close()
