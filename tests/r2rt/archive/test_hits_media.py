"""Reels, sheets and pages of hits whose videos are gone or have changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import pytest
from PIL import Image

from r2rt.archive.formats import render
from r2rt.archive.result import Hit, SearchResult, SearchTimings
from r2rt.cli.hits_media import deliver_hits_media
from r2rt.cli.media import MediaOptions
from tests.r2rt.archive.colours import write_colours


@pytest.fixture
def found(tmp_path: Path) -> SearchResult:
    """Two moments of a video, one of a video that is gone, and one of one that is shorter now."""
    video = write_colours(tmp_path / "there.mp4", ["red", "green"], seconds=1.0)
    write_colours(tmp_path / "short.mp4", ["red"], seconds=1.0)
    spans = [("gone", 0, 1), ("there", 0, 0.6), ("short", 7, 8), ("there", 1, 1.6)]
    hits = [
        Hit(path=str(video.with_stem(name)), start_s=start, end_s=end, score=0.9, duration_s=8)
        for name, start, end in spans
    ]
    return SearchResult(
        query="red",
        hits=tuple(hits),
        model="colours",
        timings=SearchTimings(query_s=0, first_s=0, second_s=0),
    )


def test_a_video_that_is_gone_costs_only_its_own_part(
    found: SearchResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media = MediaOptions(
        clips=tmp_path / "clips",
        reel=tmp_path / "reel.mp4",
        contact_sheet=tmp_path / "sheet.png",
        report=tmp_path / "page.html",
    )
    deliver_hits_media(found, media, quiet=True)
    warnings = capsys.readouterr().err
    assert warnings.count("gone.mp4") == warnings.count("short.mp4") == 1
    assert warnings.count("warning: ") == 2
    assert len(list((tmp_path / "clips").iterdir())) == 2
    assert (tmp_path / "sheet.png").is_file()
    assert (tmp_path / "page.html").is_file()
    with av.open(str(tmp_path / "reel.mp4")) as reel:
        assert sum(1 for _ in reel.decode(video=0)) == 6


def test_no_video_that_can_be_read_makes_no_reel(
    found: SearchResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.mp4").unlink()
    media = MediaOptions(reel=tmp_path / "reel.mp4", report=tmp_path / "page.html")
    deliver_hits_media(found, media, quiet=True)
    assert f"so there is no {media.reel}" in capsys.readouterr().err
    assert not (tmp_path / "reel.mp4").exists()
    assert (tmp_path / "page.html").is_file()


def test_a_page_has_all_hits_and_a_sheet_says_how_many_it_has_not(
    found: SearchResult,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Image.Image] = []
    monkeypatch.setattr("r2rt.archive.sheet.save_image", lambda image, _: drawn.append(image))
    frame = Image.new("RGB", (8, 6))
    monkeypatch.setattr(
        "r2rt.archive.sheet._frames", lambda hits: dict.fromkeys(range(len(hits)), frame)
    )
    sheet, report = tmp_path / "sheet.webp", tmp_path / "page.html"
    many = replace(found, hits=(replace(found.hits[0], path=str(tmp_path / "there.mp4")),) * 230)
    deliver_hits_media(many, MediaOptions(contact_sheet=sheet, report=report), quiet=False)
    assert "contact sheet of the first 200 hits, without 30" in capsys.readouterr().err
    assert drawn[0].height < 16_384  # or it would be no WebP
    page = report.read_text(encoding="utf-8")
    assert "230 moments" in page
    assert (page.count("<video "), page.count(" poster=")) == (230, 200)


def test_a_timeline_leaves_out_a_video_that_is_gone(found: SearchResult) -> None:
    reasons: dict[str, str] = {}
    timeline = json.loads(render("otio", found, reasons.__setitem__))
    (track,) = timeline["tracks"]["children"]
    ranks = [clip["metadata"]["r2rt"]["rank"] for clip in track["children"]]
    assert ranks == [2, 3, 4]  # frames of the one that is shorter now can be counted
    assert list(reasons) == [found.hits[0].path]
    assert "--frame-rate" not in reasons[found.hits[0].path]
