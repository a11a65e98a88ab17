"""The page where its server does not answer, and how many connections it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.r2rt.service.page.conftest import (
    EMOJI,
    Opener,
    Site,
    ask,
    padded,
    until,
    write_sound,
)

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = pytest.mark.slow


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
    write_sound(path)
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


def test_the_sound_of_a_long_video_takes_one_connection(open_page: Opener, site: Site) -> None:
    """Its first answer takes a while, and browsers open six connections to a server."""
    path = site.folder / "sound.avi"
    write_sound(path)
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


def test_a_job_is_followed_although_a_proxy_answered_for_the_server(
    open_page: Opener, site: Site
) -> None:
    path = site.folder / "followed.mp4"
    padded(EMOJI, path, EMOJI.stat().st_size + 200)
    video = site.client.post("videos", json={"path": str(path), "encode": False}).json()
    page = open_page(f"/#/video/{video['id']}")
    page.route("**/jobs/*/events", lambda route: route.fulfill(status=503), times=2)
    ask(page, "a panda")
    expect(page.locator(".moments > li")).not_to_have_count(0)
    site.client.delete(f"videos/{video['id']}")
