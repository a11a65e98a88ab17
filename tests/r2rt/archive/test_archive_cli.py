"""`r2rt index`, `search` and `library` from end to end, with the demo model and the demo video."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import av
import jsonschema
import opentimelineio as otio
import pytest
from PIL import Image

from r2rt.archive.library import Archive
from r2rt.archive.piece import Piece
from r2rt.archive.ray_workers import RayOptions
from r2rt.archive.result import Hit, SearchResult, SearchTimings
from r2rt.archive.writer import IndexReport
from r2rt.cli.main import run
from tests.conftest import CHECKOUT

VIDEO = CHECKOUT / "demo" / "emoji.mp4"
SCHEMA = CHECKOUT / "r2rt" / "archive" / "search.schema.json"
MODEL = CHECKOUT / "r2rt" / "demo"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "videos").mkdir()
    shutil.copy(VIDEO, folder / "videos" / "emoji.mp4")
    shutil.copy(CHECKOUT / "demo" / "shapes.mp4", folder / "videos" / "shapes.mp4")
    model = os.path.relpath(MODEL)
    arguments = ["index", str(folder / "library"), str(folder / "videos"), "-m", model]
    assert run([*arguments, "--quiet"]) == 0
    return folder / "library"


def test_a_sentence_finds_its_moment(library: Path, capfd: pytest.CaptureFixture[str]) -> None:
    truth = json.loads((CHECKOUT / "demo" / "emoji.json").read_text())["queries"][0]
    assert run(["search", str(library), truth["query"], "--json", "--quiet"]) == 0
    document = json.loads(capfd.readouterr().out)
    jsonschema.validate(document, json.loads(SCHEMA.read_text(encoding="utf-8")))
    best = document["hits"][0]
    assert Path(best["path"]).name == "emoji.mp4"
    assert any(
        min(best["end_s"], end_s) - max(best["start_s"], start_s)
        > 0.5 * (max(best["end_s"], end_s) - min(best["start_s"], start_s))
        for start_s, end_s in truth["true_s"]
    )


def test_a_model_that_a_default_names_does_not_replace_the_librarys_own(
    library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would be refused, or not be there at all."""
    config = tmp_path / "config.toml"
    config.write_text('[defaults]\nmodel = "tacos"\n')
    search = ["search", str(library), "a panda", "--quiet"]
    index = ["index", str(library), str(library.parent / "videos"), "--quiet"]
    assert run([*search, "-m", "tacos"]) == 20
    for name, value in (("R2RT_MODEL", "tacos"), ("R2RT_CONFIG", str(config))):
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            assert run(search) == 0
            assert run(index) == 0


def test_info_and_check(library: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["library", "info", str(library), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["videos"], found["missing"], found["failed"]) == (2, 0, {})
    assert found["model"] == "demo"  # a name that holds on other machines, too
    assert run(["library", "check", str(library)]) == 0
    assert "2 videos, 0 rows without a video" in capfd.readouterr().err


def test_a_video_whose_rows_are_lost_is_mended_as_check_says(
    library: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = str(shutil.copytree(library, tmp_path / "library"))
    video = str(library.parent / "videos" / "shapes.mp4")
    tables = Archive.open(damaged).tables
    (entry,) = tables.videos.rows(["entry"], f"path = '{os.path.realpath(video)}'")["entry"]
    tables.clips.delete(f"entry = '{entry}'")
    assert run(["library", "check", damaged]) == 16
    said = capfd.readouterr().err
    assert f"{os.path.realpath(video)}: 0 vectors of" in said
    assert "`r2rt library remove`" in said
    assert run(["library", "remove", damaged, video]) == 0
    assert run(["index", damaged, video, "--quiet"]) == 0
    assert run(["library", "check", damaged]) == 0


def test_an_interrupt_that_a_library_loses_ends_the_command(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Archive.add

    def losing(archive: Archive, *arguments: Any, **options: Any) -> Any:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return add(archive, *arguments, **options)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Archive, "add", losing)
    folder = str(library.parent / "videos")
    for follow in ([], ["--watch"]):
        assert run(["index", str(library), folder, "--quiet", *follow]) == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_what_watch_needs_is_checked_before_anything_is_indexed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    library = tmp_path / "library"
    assert run(["index", str(library), str(VIDEO), "--watch", "-m", str(MODEL), "--quiet"]) == 2
    assert "--watch follows folders; name one" in capfd.readouterr().err
    assert not library.exists()


def test_what_appears_during_the_first_run_is_indexed_too(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    runs: list[tuple[Any, ...]] = []

    def add(archive: Archive, *arguments: Any, **options: Any) -> IndexReport:
        runs.append(arguments)
        if len(runs) == 2:
            raise KeyboardInterrupt
        (videos / "new.mp4").write_bytes(VIDEO.read_bytes())
        return IndexReport()

    monkeypatch.setattr(Archive, "add", add)
    end = threading.Timer(20, os.kill, (os.getpid(), signal.SIGINT))
    end.start()
    assert run(["index", str(library), str(videos), "--quiet", "--watch"]) == 130
    end.cancel()
    assert len(runs) == 2


def test_workers_of_ray_run_on_the_device_that_is_named(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[RayOptions] = []

    def encode(options: RayOptions, *_: Any, **__: Any) -> Iterator[Piece]:
        asked.append(options)
        return iter(())

    monkeypatch.setattr("r2rt.archive.ray_workers.encode_on_ray", encode)
    index = ["index", str(library), str(library.parent / "videos"), "--quiet", "--ray", "local"]
    assert run([*index, "--workers", "3", "--device", "cpu"]) == 0
    (options,) = asked
    assert (options.address, options.workers, options.device) == ("local", 3, "cpu")


def test_a_folder_that_is_no_library(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["search", str(tmp_path), "a dog"]) == 16
    assert "not a library of videos; `r2rt index" in capfd.readouterr().err


def test_every_field_of_the_document_is_on_the_page() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    page = (CHECKOUT / "docs" / "guides" / "archive.md").read_text(encoding="utf-8")
    timings = schema["properties"]["timings"]["properties"]
    for name in (*schema["properties"], *schema["$defs"]["hit"]["properties"], *timings):
        assert f"`{name}`" in page, name


def test_what_is_made_of_hits(
    library: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Other readers open all of it, and it has one part a hit."""
    query = ["search", str(library), "a penguin", "--top", "2", "--quiet", "--anyway"]
    media = ["--clips", tmp_path / "clips", "--reel", tmp_path / "reel.mp4"]
    media += ["--contact-sheet", tmp_path / "sheet.png", "--report", tmp_path / "page.html"]
    assert run([*query, *map(str, media), "-f", "otio", "-o", str(tmp_path / "hits.otio")]) == 0
    assert run([*query, "-f", "json"]) == 0
    hits = json.loads(capfd.readouterr().out)["hits"]
    timeline = otio.adapters.read_from_file(str(tmp_path / "hits.otio"))
    clips = list(timeline.video_tracks()[0])
    starts_s = [clip.metadata["r2rt"]["start_s"] for clip in clips]
    assert starts_s == pytest.approx([hit["start_s"] for hit in hits])
    # A reel shows once what two hits share.
    first, second = ((hit["start_s"], hit["end_s"]) for hit in hits)
    lasts_s = first[1] - first[0] + second[1] - second[0]
    lasts_s -= max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == len(hits)
    with av.open(str(tmp_path / "reel.mp4")) as reel:
        assert reel.duration is not None
        assert reel.duration / 1e6 == pytest.approx(lasts_s, abs=0.3)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width >= 720
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<video ") == len(hits)
    assert f"#t={hits[0]['start_s']:.3f},{hits[0]['end_s']:.3f}" in page


@pytest.mark.parametrize("options", [("--image", "IN"), ("--like", "IN@0")])
def test_what_a_search_begins_with_is_not_overwritten(
    options: tuple[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "input.csv"
    path.write_bytes(b"an image or a video")
    words = [word.replace("IN", str(path)) for word in options]
    assert run(["search", str(tmp_path / "none"), *words, "-o", str(path)]) == 40
    assert "is the input" in capfd.readouterr().err


def test_hits_are_not_written_as_text_into_a_video(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "hits.mp4"
    assert run(["search", str(tmp_path / "none"), "a dog", "-o", str(output)]) == 2
    assert "no format has this suffix" in capfd.readouterr().err


def test_the_suffix_of_hits_goes_before_a_default_format(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[search]\nformat = "json"\n')
    monkeypatch.setenv("R2RT_CONFIG", str(config))
    output = tmp_path / "hits.csv"
    assert run(["search", str(library), "a penguin", "--anyway", "-o", str(output)]) == 0
    assert output.read_text().startswith("rank,video")


def test_a_file_does_not_keep_the_hits_of_an_earlier_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = MagicMock()
    archive.search.return_value = SearchResult(
        query="a dog",
        hits=(Hit(path="a.mp4", start_s=0, end_s=2, score=0.1),),
        present=False,
        timings=SearchTimings(query_s=0, first_s=0, second_s=0),
    )
    monkeypatch.setattr("r2rt.archive.library.Archive", lambda *_, **__: archive)
    monkeypatch.setattr("r2rt.archive.tables.Tables.open", MagicMock())
    monkeypatch.setattr("r2rt.cli.search.open_model", MagicMock())
    monkeypatch.setattr("r2rt.cli.search.warn_of_unknown_words", MagicMock())
    for name in ("csv", "m3u8", "otio"):
        output = tmp_path / f"hits.{name}"
        output.write_text("a.mp4 of an earlier search")
        assert run(["search", "library", "a dog", "-o", str(output), "--quiet"]) == 3
        assert "a.mp4" not in output.read_text()


def test_a_playlist_names_files_and_times(library: Path, capfd: pytest.CaptureFixture[str]) -> None:
    query = ["search", str(library), "a penguin", "--top", "2", "--quiet", "--anyway"]
    assert run([*query, "-f", "m3u8"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "#EXTM3U"
    assert next(line for line in lines if not line.startswith("#")).startswith("file:///")
    assert len(lines) == 1 + 4 * sum(line.startswith("#EXTINF:") for line in lines)


def test_a_line_and_a_row_a_hit(library: Path, capfd: pytest.CaptureFixture[str]) -> None:
    query = ["search", str(library), "a penguin", "--top", "2", "--quiet", "--anyway"]
    assert run([*query, "-f", "jsonl"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert run([*query, "-f", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert [line["path"] for line in lines] == [row["video"] for row in rows]
    assert [line["rank"] for line in lines] == [int(row["rank"]) for row in rows] == [1, 2]
