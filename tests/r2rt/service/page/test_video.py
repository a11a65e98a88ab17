"""One video: sentences, moments, frames, decisions, and exports."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import opentimelineio
import pysubs2
import pytest
from playwright.sync_api import expect

from tests.conftest import CHECKOUT
from tests.r2rt.service.page.conftest import Opener, Site, until
from training.data.checks import check_file

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

pytestmark = pytest.mark.slow

# What the generator of the video put on screen, in seconds.
TRUE_S = {
    item["query"]: item["true_s"]
    for item in json.loads((CHECKOUT / "demo" / "emoji.json").read_text())["queries"]
}
RATE = 12  # frames a second, by ffprobe
TWICE = "a strawberry moving down"  # shown as two moments, which do not overlap


def ask(page: Page, text: str) -> None:
    """Type sentences without a mouse."""
    expect(page.get_by_role("heading", level=1)).to_contain_text(".mp4")
    page.locator("body").press("/")
    page.keyboard.type(text)
    page.keyboard.press("Enter")
    expect(page.locator(".lane .facts").last).to_contain_text("moment")
    page.keyboard.press("Escape")


def rows(page: Page) -> Locator:
    return page.locator(".moments > li")


def times_s(row: Locator) -> list[float]:
    """The start and the end that a row of the list shows."""
    text = row.locator(".times").inner_text()
    return [60 * int(m) + float(s) for m, s in re.findall(r"(\d+):(\d\d\.\d\d)", text)]


def now_s(page: Page) -> float:
    value: float = page.evaluate("document.querySelector('.stage video').currentTime")
    return value


def overlap(found: list[float], true: list[float]) -> float:
    shared = min(found[1], true[1]) - max(found[0], true[0])
    return max(0.0, shared) / (max(found[1], true[1]) - min(found[0], true[0]))


def kept(
    site: Site,
    video: dict[str, Any],
    page: Page,
    ready: Callable[[dict[str, Any]], object] = lambda _: True,
) -> dict[str, Any]:
    """The one record that the service keeps of a video, once it is there and ready.

    The page writes a little after each decision, so the first record may not hold the last one.
    """
    found: list[dict[str, Any]] = []

    def is_ready() -> bool:
        found[:] = site.client.get(f"videos/{video['id']}/annotations").json()["records"]
        return bool(found and ready(found[0]))

    until(page, is_ready)
    (record,) = found
    return record


def changed(site: Site, place: str, before: list[Any], page: Page) -> list[Any]:
    """The records that the service keeps, once they are others than before."""
    found: list[Any] = []

    def is_changed() -> bool:
        found[:] = site.client.get(place).json()["records"]
        return found != before

    until(page, is_changed)
    return found


@pytest.fixture
def fresh(emoji: dict[str, Any], site: Site) -> dict[str, Any]:
    """The demo's video without annotations."""
    site.client.put(f"videos/{emoji['id']}/annotations", json={"records": []})
    return emoji


def test_a_sentence_typed_without_a_mouse_finds_and_plays_its_moment(page: Page) -> None:
    ask(page, "a purple butterfly moving down")
    found = times_s(rows(page).first)
    (true,) = TRUE_S["a purple butterfly moving down"]
    assert overlap(found, true) > 0.5
    page.keyboard.press("Enter")
    until(page, "!document.querySelector('.stage video').paused")
    assert found[0] - 0.1 <= now_s(page) <= found[1]
    page.keyboard.press("k")
    assert page.evaluate("document.querySelector('.stage video').paused")


def test_sentences_divided_by_semicolons_are_lanes(page: Page) -> None:
    ask(page, "a penguin; a panda")
    assert page.locator(".lane .words").all_inner_texts() == ["a penguin", "a panda"]
    expect(page.locator("#moments-title")).to_have_text("a penguin")
    page.keyboard.press("]")
    expect(page.locator("#moments-title")).to_have_text("a panda")
    page.get_by_role("button", name="Remove the lane a penguin").click()
    assert page.locator(".lane .words").all_inner_texts() == ["a panda"]


def test_a_click_on_a_bar_plays_the_moment(page: Page) -> None:
    ask(page, "a penguin")
    start_s, end_s = times_s(rows(page).first)
    page.locator(".bar-moment").first.click()
    until(page, "!document.querySelector('.stage video').paused")
    assert start_s - 0.1 <= now_s(page) <= end_s


def test_arrows_step_by_frames(page: Page) -> None:
    until(page, "document.querySelector('.stage video')?.readyState > 1")
    for _ in range(7):
        page.keyboard.press("ArrowRight")
    expect(page.locator(".clock")).to_contain_text("frame 7")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".clock")).to_contain_text("frame 6")
    until(page, "!document.querySelector('.stage video').seeking")
    assert now_s(page) == pytest.approx(6.5 / RATE, abs=1e-3)  # the middle of the frame
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator(".clock")).to_contain_text("frame 18")


def test_ends_set_by_frames_are_kept_as_annotations_that_training_reads(
    page: Page, site: Site, fresh: dict[str, Any], tmp_path: Path
) -> None:
    ask(page, "a panda")
    page.keyboard.press("ArrowRight")  # frame 1
    page.keyboard.press("i")
    for _ in range(4):
        page.keyboard.press("ArrowRight")  # frame 5
    page.keyboard.press("o")
    assert times_s(rows(page).first) == [0.08, 0.5]
    # Frame 5 belongs to the moment, which ends where frame 6 begins.
    set_s = [pytest.approx([1 / RATE, 6 / RATE], abs=1e-6)]
    record = kept(site, fresh, page, ready=lambda record: record["windows"] == set_s)
    assert record["query"] == "a panda"
    path = tmp_path / "kept.jsonl"
    path.write_text(site.client.get(f"videos/{fresh['id']}/annotations.jsonl").text)
    checked = check_file(path)
    assert not checked.errors
    assert checked.records == 1


def test_decisions_are_there_again_after_the_page_is_opened_anew(
    page: Page, site: Site, fresh: dict[str, Any]
) -> None:
    ask(page, TWICE)
    page.keyboard.press("a")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("x")
    kept(
        site,
        fresh,
        page,
        ready=lambda record: len(record["windows"]) == len(record["rejected"]) == 1,
    )
    page.reload()
    expect(page.locator(".moments > li.kept")).to_have_count(1)
    expect(page.locator(".moments > li.rejected")).to_have_count(1)
    page.locator("body").press("a")  # the same verdict again takes it back
    expect(page.locator(".moments > li.kept")).to_have_count(0)
    page.keyboard.press("Control+z")
    expect(page.locator(".moments > li.kept")).to_have_count(1)


def test_no_decision_is_lost_when_another_video_is_opened_at_once(
    open_page: Opener, site: Site, fresh: dict[str, Any]
) -> None:
    shutil.copy(CHECKOUT / "demo" / "emoji.mp4", site.folder / "other.mp4")
    other = site.add(site.folder / "other.mp4", encode=False)
    before = {"query": "a dog", "windows": [[1.0, 2.0]], "rejected": []}
    place = f"videos/{fresh['id']}/annotations"
    site.client.put(place, json={"records": [before]})
    page = open_page(f"/#/video/{fresh['id']}")
    page.get_by_role("button", name="Remove the lane a dog").click()
    ask(page, "a penguin")
    page.evaluate(
        "address => { document.querySelector('.moments .keep').click(); location.hash = address; }",
        f"#/video/{other['id']}",
    )
    expect(page.get_by_role("heading", level=1)).to_have_text("other.mp4")
    assert [record["query"] for record in changed(site, place, [before], page)] == [
        "a dog",
        "a penguin",
    ]


def test_no_decision_is_lost_when_the_ones_before_cannot_be_read(
    open_page: Opener, site: Site, fresh: dict[str, Any]
) -> None:
    before = {"query": "a dog", "windows": [[1.0, 2.0]], "rejected": []}
    place = f"videos/{fresh['id']}/annotations"
    site.client.put(place, json={"records": [before]})
    page = open_page("/#/library")
    page.route("**/annotations", lambda route: route.fulfill(status=500), times=1)
    page.evaluate("address => { location.hash = address; }", f"#/video/{fresh['id']}")
    expect(page.locator("#notice")).to_contain_text("500")
    ask(page, "a penguin")
    page.locator(".moments .keep").first.click()
    assert [record["query"] for record in changed(site, place, [before], page)] == [
        "a dog",
        "a penguin",
    ]


def test_no_decision_is_lost_when_the_server_is_away(
    page: Page, site: Site, fresh: dict[str, Any]
) -> None:
    ask(page, "a penguin")
    page.context.set_offline(True)
    page.locator(".moments .keep").first.click()
    expect(page.locator("#notice")).to_contain_text("tries again by itself")
    page.wait_for_timeout(600)  # in which the decision cannot be written
    page.context.set_offline(False)
    assert kept(site, fresh, page)["query"] == "a penguin"


def test_no_decision_is_lost_when_the_page_is_closed_at_once(
    page: Page, site: Site, fresh: dict[str, Any]
) -> None:
    ask(page, "a penguin")
    page.evaluate(
        "() => { document.querySelector('.moments .keep').click(); location = 'about:blank'; }"
    )
    assert kept(site, fresh, page)["query"] == "a penguin"


def test_two_pages_keep_each_other_s_decisions(
    open_page: Opener, site: Site, fresh: dict[str, Any]
) -> None:
    place = f"videos/{fresh['id']}/annotations"
    one, other = (open_page(f"/#/video/{fresh['id']}") for _ in range(2))
    ask(one, "a penguin")
    ask(other, "a panda")
    one.locator(".moments .keep").first.click()
    before = changed(site, place, [], one)
    other.locator(".moments .keep").first.click()
    both = changed(site, place, before, other)
    assert [record["query"] for record in both] == ["a penguin", "a panda"]


def test_a_lane_without_an_answer_takes_no_moments_which_would_be_lost(page: Page) -> None:
    page.route("**/ground", lambda route: route.fulfill(status=500))
    page.locator("#query").fill("a panda")
    page.keyboard.press("Enter")
    expect(page.locator(".lane .facts")).to_contain_text("500")
    expect(page.get_by_role("button", name="Mark a moment")).to_be_hidden()
    page.keyboard.press("Escape")
    for key in ("n", "i"):
        page.keyboard.press(key)
        expect(page.locator("#notice")).to_contain_text("Ask this sentence again")
        page.get_by_role("button", name="Close this message").click()
    expect(rows(page)).to_have_count(0)


def test_an_end_is_dragged_to_a_frame(page: Page, fresh: dict[str, Any]) -> None:
    ask(page, "a penguin")
    _, end_s = times_s(rows(page).first)
    bar = page.locator(".bar-moment").first
    bar.hover()
    handle = bar.locator(".out").bounding_box()
    assert handle is not None
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + 20
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=4)
    page.mouse.up()
    dragged = times_s(rows(page).first)[1]
    assert dragged > end_s + 2
    assert dragged * RATE == pytest.approx(round(dragged * RATE), abs=0.1)


def test_a_start_that_is_dragged_past_the_end_leaves_the_end_where_it_is(
    page: Page, fresh: dict[str, Any]
) -> None:
    ask(page, "a penguin")
    _, end_s = times_s(rows(page).first)
    bar = page.locator(".bar-moment").first
    bar.hover()
    box = bar.bounding_box()
    handle = bar.locator(".in").bounding_box()
    assert box is not None
    assert handle is not None
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] + 100, handle["y"] + 20, steps=8)
    page.mouse.up()
    # The end is put on a frame, and a frame is left of the moment.
    on_frame_s = round(end_s * RATE) / RATE
    expected = pytest.approx([on_frame_s - 1 / RATE, on_frame_s], abs=0.01)
    assert times_s(rows(page).first) == expected


def test_zooming_shows_a_part_and_the_strip_stays_drawn(page: Page) -> None:
    ask(page, "a penguin")
    page.keyboard.press("z")
    expect(page.locator(".zoom .span")).to_contain_text("to")
    expect(page.locator(".overview")).to_be_visible()
    page.keyboard.press("0")
    expect(page.locator(".zoom .span")).to_have_text("1:20.0")
    until(
        page,
        """() => {
          const canvas = document.querySelector(".frames");
          const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, 8).data;
          const seen = new Set();
          for (let i = 0; i < pixels.length; i += 40) seen.add(pixels.slice(i, i + 3).join());
          return seen.size > 20;
        }""",
    )


def test_picked_moments_are_saved_in_formats_that_others_read(
    page: Page, site: Site, tmp_path: Path
) -> None:
    ask(page, TWICE)
    page.keyboard.press("p")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("p")
    expect(page.locator("#picks-title")).to_have_text("Picked (2)")
    spans = sorted(times_s(row) for row in page.locator(".picks li").all())
    page.get_by_label("Take away as").select_option("srt")
    with page.expect_download() as subtitles:
        page.get_by_role("button", name="Save").click()
    path = tmp_path / "moments.srt"
    subtitles.value.save_as(path)
    cues = [[cue.start / 1000, cue.end / 1000] for cue in pysubs2.load(str(path))]
    assert cues == [pytest.approx(span, abs=0.01) for span in spans]
    page.get_by_label("Take away as").select_option("otio")
    with page.expect_download() as timeline:
        page.get_by_role("button", name="Save").click()
    path = tmp_path / "moments.otio"
    timeline.value.save_as(path)
    clips = opentimelineio.adapters.read_from_file(str(path)).find_clips()
    lengths = [clip.source_range.duration.to_seconds() for clip in clips]
    assert lengths == [pytest.approx(end - start, abs=2 / RATE) for start, end in spans]
    page.reload()
    expect(page.locator("#picks-title")).to_have_text("Picked (2)")  # this browser keeps them


def test_picked_moments_are_saved_as_clips(page: Page, tmp_path: Path) -> None:
    import av

    ask(page, "a panda")
    page.keyboard.press("p")
    with page.expect_download() as clip:
        page.get_by_role("button", name="Save").click()
    path = tmp_path / "clip.mp4"
    clip.value.save_as(path)
    start_s, end_s = times_s(page.locator(".picks li").first)
    with av.open(str(path)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert frames == pytest.approx((end_s - start_s) * RATE, abs=2)


def test_a_file_that_browsers_cannot_play_is_shown_in_stills_and_converted_to_play(
    open_page: Opener, site: Site, tmp_path: Path
) -> None:
    path = site.folder / "old.avi"
    _write_mpeg4(path)
    video = site.add(path, encode=False)
    page = open_page(f"/#/video/{video['id']}")
    expect(page.locator(".stage .still")).to_be_visible()
    # Nobody asked for its encoding, so it does not wait for it.
    expect(page.get_by_text("not encoded before the first question")).to_be_visible()
    expect(page.locator(".videos li.open")).to_contain_text("not encoded")
    until(page, "document.querySelector('.still').naturalWidth > 0")
    page.locator("body").press(" ")
    until(page, "document.querySelector('.stage video').videoWidth == 64")


def _write_mpeg4(path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for level in range(30):
            pixels = np.full((48, 64, 3), 8 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())


def test_one_still_is_loaded_at_a_time_and_the_last_one_wanted_comes(
    open_page: Opener, site: Site
) -> None:
    path = site.folder / "stills.avi"
    _write_mpeg4(path)
    video = site.add(path, encode=False)
    page = open_page("/#/library")
    held: list[Route] = []
    page.route("**/frame?*height=540*", lambda route: held.append(route))  # noqa: PLW0108
    page.evaluate("address => { location.hash = address; }", f"#/video/{video['id']}")
    until(page, lambda: held)
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "End"):
        page.locator("body").press(key)
    page.wait_for_timeout(200)  # in which others would be asked for
    assert len(held) == 1
    held[0].fulfill(status=500)
    until(page, lambda: len(held) == 2)
    assert "time_s=2.95" in held[1].request.url  # the middle of the last of 30 frames
    held[1].continue_()
    until(page, "document.querySelector('.still').naturalWidth > 0")
    expect(page.locator(".stage .still")).to_be_visible()
    assert len(held) == 2
    site.client.delete(f"videos/{video['id']}")


def test_sentences_beyond_what_a_request_may_hold_are_asked_in_several(
    open_page: Opener, site: Site, fresh: dict[str, Any]
) -> None:
    records = [{"query": f"a dog {i}", "windows": [[1.0, 2.0]], "rejected": []} for i in range(65)]
    site.client.put(f"videos/{fresh['id']}/annotations", json={"records": records})
    page = open_page("/#/library")
    asked: list[list[str]] = []

    def answer(route: Route) -> None:
        asked.append(json.loads(route.request.post_data or "")["queries"])
        route.fulfill(json={"predictions": [{"present": True, "moments": []}] * len(asked[-1])})

    page.route("**/ground", answer)
    page.evaluate("address => { location.hash = address; }", f"#/video/{fresh['id']}")
    expect(page.locator(".lane .facts", has_text="1 moment")).to_have_count(65)
    assert [len(queries) for queries in asked] == [64, 1]


def test_a_picked_moment_is_played_at_each_click(page: Page) -> None:
    ask(page, "a penguin")
    page.keyboard.press("p")
    for _ in range(2):
        page.locator(".picks a").click()
        until(page, "!document.querySelector('.stage video').paused")
        page.locator("body").press("k")
        page.keyboard.press("Home")
        expect(page.locator(".clock")).to_contain_text("frame 0")


def test_names_and_sentences_are_text_and_never_markup(open_page: Opener, site: Site) -> None:
    hostile = "<img src=x onerror=alert(1)><b>bold.mp4"
    path = site.folder / hostile.replace("/", "_")
    shutil.copy(CHECKOUT / "demo" / "shapes.mp4", path)
    video = site.add(path)
    page = open_page(f"/#/video/{video['id']}")
    expect(page.get_by_role("heading", level=1)).to_have_text(hostile)
    expect(page.locator(".videos li.open .name")).to_have_text(hostile)
    sentence = "<script>alert(2)</script><i>a panda"
    page.locator("#query").fill(sentence)
    page.keyboard.press("Enter")
    expect(page.locator(".lane .words")).to_have_text(sentence)
    expect(page.locator(".lane .facts")).not_to_have_text("asking…")
    page.keyboard.press("Escape")
    page.keyboard.press("n")  # a moment of one's own, so that there is one to pick
    page.keyboard.press("p")
    expect(page.locator(".picks .quiet")).to_contain_text(sentence)
    assert (
        page.locator("main b, main i:not(.score i), aside b, main script, img[onerror]").count()
        == 0
    )
