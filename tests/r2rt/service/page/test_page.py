"""The page as a whole: whom it serves, and what it shows when things go wrong."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from r2rt.archive.result import Hit, SearchResult, SearchTimings
from r2rt.service.settings import Settings
from tests.conftest import CHECKOUT
from tests.r2rt.service.page.conftest import (
    EMOJI,
    Opener,
    Site,
    ask,
    padded,
    serving,
    until,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.slow

NARROW = {"width": 390, "height": 844}
WIDE = {"width": 1440, "height": 900}


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


def test_scripts_have_their_type_whatever_the_machine_guesses(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starlette.responses.guess_type", lambda *_: ("text/plain", None))
    types = {
        path: site.client.get(f"{site.address}/{path}").headers["content-type"].split(";")[0]
        for path in ("", "static/app.js", "static/page.css", "static/icon.svg")
    }
    assert list(types.values()) == ["text/html", "text/javascript", "text/css", "image/svg+xml"]


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


def test_a_sentence_typed_early_is_answered_once_the_video_is_encoded(
    open_page: Opener, site: Site
) -> None:
    path = site.folder / "early.mp4"
    padded(EMOJI, path, EMOJI.stat().st_size + 100)
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
        padded(EMOJI, path, EMOJI.stat().st_size + 300)

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
