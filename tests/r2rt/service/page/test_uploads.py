"""The page where videos are uploaded."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.conftest import CHECKOUT
from tests.r2rt.service.page.conftest import (
    EMOJI,
    Opener,
    Site,
    padded,
    until,
)

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = pytest.mark.slow


def test_an_upload_goes_on_where_it_stopped(open_page: Opener, site: Site, tmp_path: Path) -> None:
    path = tmp_path / "big.mp4"
    padded(EMOJI, path, 9 << 20)
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

    padded(EMOJI, tmp_path / "big.mp4", 9 << 20)
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
