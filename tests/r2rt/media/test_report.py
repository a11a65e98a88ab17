"""The report: one page that is whole, safe, and points at the video beside it."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import os
import re
import shutil
import sys
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import pytest
from PIL import Image

from r2rt.errors import MissingExtraError
from r2rt.grounding.prediction import Prediction
from r2rt.media import write_report
from r2rt.media.report import address_of
from tests.r2rt.conftest import PATIENCE_MS
from tests.r2rt.media.footage import prediction, write_footage

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EVIL = (
    "{{ 7 * 7 }}{% if %}</script><script>alert(1)</script>"
    "<img src=x onerror=alert(2)> \"quoted\" '&' \u202egnp"
)


class Page(HTMLParser):
    """Every element with its attributes, and the text of each kind of element."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self._open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "rect", "polygon", "polyline"}:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self._open:
            self.text[self._open[-1]] = self.text.get(self._open[-1], "") + data

    def all(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and kind in [*(attributes.get("class") or "").split(), ""]
        ]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "film.mp4"
    return write_footage(path, frames=75, sound=None)


def report(video: Path | None, asked: list[Prediction], path: Path) -> Page:
    write_report(video, asked, path)
    return Page(path)


def test_every_moment_can_be_played_and_has_an_image(video: Path, tmp_path: Path) -> None:
    film = Path(shutil.copy(video, tmp_path))
    asked = [
        prediction((1.0, 2.5, 0.9), (0.0, 1.0, 0.4), duration_s=3, video=str(film)),
        prediction(query="nothing", duration_s=3, video=str(film)),
    ]
    page = report(film, asked, tmp_path / "out.html")
    (player,) = page.all("video")
    assert player["src"] == "./film.mp4"
    assert "controls" in player
    moments = page.all("a", "moment")
    assert [(item["data-start"], item["data-end"]) for item in moments] == [
        ("1.000", "2.500"),
        ("0.000", "1.000"),
    ]
    # Without scripts the same links open the video at the moment.
    assert [item["href"] for item in moments] == [
        "./film.mp4#t=1.000,2.500",
        "./film.mp4#t=0.000,1.000",
    ]
    assert len(page.all("a", "bar")) == 2
    for image in page.all("img"):
        kind, _, content = (image["src"] or "").partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert picture.size == (int(image["width"] or 0), int(image["height"] or 0))
    assert len(page.all("img")) == 2
    assert len(page.all("svg")) == len(page.all("polyline")) == 2
    assert "No moment was found." in page.text["p"]


def test_nothing_outside_of_the_page_is_loaded_but_the_video(video: Path, tmp_path: Path) -> None:
    film = Path(shutil.copy(video, tmp_path))
    page = report(film, [prediction((1, 2, 0.9), duration_s=3)], tmp_path / "out.html")
    assert not page.all("link")
    assert not page.all("iframe")
    assert all("src" not in script for script in page.all("script"))
    for _, attributes in page.elements:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg", "./film.mp4"))
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?:|url\(|@import", page.source)
    (policy,) = (item["content"] or "" for item in page.all("meta") if "http-equiv" in item)
    assert "default-src 'none'" in policy
    digest = base64.b64encode(hashlib.sha256(page.text["script"].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_queries_and_names_are_text_and_never_markup(video: Path, tmp_path: Path) -> None:
    film = tmp_path / 'a"><script>alert(3)<.mp4'
    shutil.copy(video, film)
    answer = prediction((1, 2, 0.9), query=EVIL, duration_s=3, video=str(film))
    page = report(film, [answer], tmp_path / "out.html")
    assert len(page.all("script")) == 1
    assert "alert" not in page.text["script"]
    assert page.text["h2"] == EVIL.replace("\u202e", " ").replace("  ", " ")
    assert page.text["h1"] == film.name
    assert all((image["src"] or "").startswith("data:") for image in page.all("img"))


@pytest.mark.parametrize(
    "name",
    [
        *("#1 ?a=b %41.mp4", "http:x.mp4", "ü 狗.mp4", "a&amp;b'.mp4"),
        os.fsdecode(b"caf\xe9.mp4"),  # no UTF-8
    ],
)
def test_the_video_is_found_whatever_its_name(name: str, video: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "reports").mkdir()
    film = tmp_path / "videos" / name
    shutil.copy(video, film)
    page = report(film, [prediction((1, 2, 0.9), duration_s=3)], tmp_path / "reports" / "o.html")
    address = page.all("video")[0]["src"] or ""
    assert address.startswith("./../videos/")
    assert not set(address) & set('#?"<>: ')
    there = tmp_path / "reports" / os.fsdecode(unquote_to_bytes(address))
    assert there.resolve() == film.resolve()


def test_a_video_on_another_drive_has_its_full_address(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def relpath(path: object, start: object) -> str:
        raise ValueError(f"path is on mount {path}, start on mount {start}")  # as on Windows

    monkeypatch.setattr(os.path, "relpath", relpath)
    assert address_of(video, tmp_path / "out.html") == video.resolve().as_uri()


def test_without_the_video_there_are_neither_player_nor_links(tmp_path: Path) -> None:
    page = report(None, [prediction((1, 2, 0.9), duration_s=3)], tmp_path / "out.html")
    assert not page.all("video")
    assert not page.all("a")
    assert not page.all("img")
    assert len(page.all("span", "moment")) == 1


def test_without_jinja_a_line_says_what_to_install(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"Jinja2.*pip install 'r2rt\[media\]'"):
        write_report(video, [prediction((1, 2, 0.9), duration_s=3)], tmp_path / "out.html")
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_a_video_keeps_the_videos_clock(tmp_path: Path) -> None:
    answer = prediction((65, 70, 0.9), duration_s=20, start_s=60)
    page = report(None, [answer], tmp_path / "out.html")
    (line,) = page.all("div", "timeline")
    assert (line["data-from"], line["data-to"]) == ("60.000", "80.000")
    (bar,) = page.all("span", "bar")
    assert "left:25.000%;width:25.000%" in (bar["style"] or "")


def test_long_videos_do_not_make_large_pages(tmp_path: Path) -> None:
    answer = prediction((65, 70, 0.9), duration_s=6 * 3600)
    assert len(answer.saliency) == 10_800
    page = report(None, [answer], tmp_path / "out.html")
    assert len(page.source) < 100_000


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 800, 1280])
def test_labels_of_the_axis_do_not_overlap(width: int, tmp_path: Path, browser: Browser) -> None:
    write_report(None, [prediction((65, 70, 0.9), duration_s=8 * 7200)], tmp_path / "out.html")
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto((tmp_path / "out.html").as_uri())
    boxes = [label.bounding_box() for label in page.locator(".axis span").all()]
    context.close()
    spans = [(box["x"], box["x"] + box["width"]) for box in boxes if box]
    assert len(boxes) == 9
    assert len(spans) >= 5
    assert all(end + 4 < start for (_, end), (start, _) in itertools.pairwise(spans))
    assert spans[0][0] >= 0
    assert spans[-1][1] <= width


@pytest.mark.slow
def test_a_long_moment_is_played_to_its_end(tmp_path: Path, browser: Browser) -> None:
    film = write_footage(tmp_path / "film.mp4", frames=90, rate=Fraction(1), sound=None)
    write_report(film, [prediction((2, 80, 0.9), duration_s=90)], tmp_path / "out.html")
    page = browser.new_page()
    page.goto((tmp_path / "out.html").as_uri())
    video = page.locator("video")
    # Who moves within the moment still stops at its end; who leaves it goes on watching.
    for places, goes_on in (([79.5], False), ([1.0, 79.5], True)):
        page.locator("a[data-start]").first.click()
        for at in places:
            video.evaluate(
                """(it, at) => {
                    it.currentTime = at;
                    return new Promise(done => it.addEventListener("seeked", done, {once: true}));
                }""",
                at,
            )
        for _ in range(PATIENCE_MS // 50):
            now, paused = video.evaluate("it => [it.currentTime, it.paused]")
            if paused or now > 80.5:
                break
            page.wait_for_timeout(50)
        assert paused is not goes_on
    page.close()
