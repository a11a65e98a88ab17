"""Searching a library of colours: which moments come first, and what filters, images, words do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from r2rt.archive import queries
from r2rt.archive.formats import render
from r2rt.archive.library import Archive
from r2rt.archive.maintenance import remove_videos
from r2rt.archive.piece import Keep
from r2rt.archive.queries import Like
from r2rt.errors import LibraryError, QueryError
from r2rt.grounding.encoded import EncodedVideo
from tests.r2rt.archive.colours import (
    COLOURS,
    ColourGrounder,
    colour_grounder,
    make_colours,
    write_colours,
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """A library of the three videos; searches do not change it."""
    folder = tmp_path_factory.mktemp("colours")
    make_colours(folder / "videos")
    archive = Archive.open(folder / "library", model=colour_grounder(folder))
    archive.add(folder / "videos", tags=["plain"])
    return archive


def found(
    archive: Archive, *arguments: object, **options: object
) -> list[tuple[str, float, float]]:
    result = archive.search(*arguments, **options)  # type: ignore[arg-type]
    return [(Path(hit.path).name, hit.start_s, hit.end_s) for hit in result]


@pytest.mark.parametrize(
    ("colour", "moments"),
    [
        ("yellow", [("beach.mp4", 0, 8)]),
        ("red", [("garden.mp4", 4, 8)]),
        ("green", [("garden.mp4", 0, 4), ("garden.mp4", 8, 12)]),
        ("cyan", [("night.mp4", 8, 12)]),
    ],
)
def test_a_sentence_finds_its_moments(
    archive: Archive, colour: str, moments: list[tuple[str, float, float]]
) -> None:
    assert sorted(found(archive, colour)) == moments


def test_moments_of_several_videos_are_ranked_together(archive: Archive) -> None:
    hits = archive.search("blue").hits
    assert {Path(hit.path).name for hit in hits} == {"beach.mp4", "night.mp4"}
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)


def test_top_limits_the_hits(archive: Archive) -> None:
    assert len(archive.search("blue", top=2)) == 2


def test_a_filter_leaves_videos_out(archive: Archive) -> None:
    assert {name for name, *_ in found(archive, "blue", where="path like '%night%'")} == {
        "night.mp4"
    }
    assert found(archive, "blue", where="array_has(tags, 'other')") == []
    result = archive.search("blue", where="array_has(tags, 'plain') and duration_s > 10")
    assert result.videos == 3


def test_a_filter_finds_nothing_that_cannot_be_searched(tmp_path: Path) -> None:
    """Whatever its parentheses are: rows of videos that failed or are gone have no clips."""
    make_colours(tmp_path / "videos")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    archive.add(tmp_path / "videos")
    for where in ("true) or (true", "path like '%b%' or true"):
        assert archive.search("yellow", where=where).videos == 3
    for where in ("true; true", ""):
        with pytest.raises(QueryError, match="where"):
            archive.search("yellow", where=where)
        with pytest.raises(QueryError, match="where"):
            list(archive.videos(where))


def test_a_filter_that_cannot_be_used_names_the_columns(archive: Archive) -> None:
    with pytest.raises(QueryError, match=r"No field named colour.*columns are path, "):
        archive.search("blue", where="colour = 'red'")


def test_an_image_finds_what_looks_like_it(archive: Archive) -> None:
    pixels = np.full((40, 60, 3), COLOURS["pink"], np.uint8)
    assert found(archive, image=pixels)[0] == ("garden.mp4", 12, 16)


@pytest.mark.parametrize("name", ["json", "jsonl", "csv", "otio"])
def test_hits_of_an_image_are_written_in_every_format(archive: Archive, name: str) -> None:
    pixels = np.full((40, 60, 3), COLOURS["pink"], np.uint8)
    assert "garden.mp4" in render(name, archive.search(image=pixels))


def test_names_that_are_no_text_can_be_written(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's name is any bytes, a document is UTF-8."""
    name = os.fsdecode(b"caf\xe9")
    vector = archive.grounder.embed_text(["pink"])[0]
    monkeypatch.setattr(archive.grounder, "embed_image", lambda _: vector)
    monkeypatch.setattr(queries, "_embedding", lambda *_: vector)
    result = archive.search(image=f"{name}.png", like=Like(f"{name}.mp4", 9))
    assert json.loads(render("json", result))["images"] == ["caf\ufffd.png", "caf\ufffd.mp4@9"]


def test_a_moment_of_a_video_finds_what_looks_like_it(archive: Archive) -> None:
    beach = next(row["path"] for row in archive.videos("path like '%beach%'"))
    hits = archive.search(like=f"{beach}@0:09", top=2)
    assert {Path(hit.path).name for hit in hits} == {"beach.mp4", "night.mp4"}


def test_words_and_an_image_together(archive: Archive) -> None:
    """Blue alone is in two videos; a picture of yellow beside it prefers the one with both."""
    pixels = np.full((8, 8, 3), COLOURS["yellow"], np.uint8)
    result = archive.search("blue", image=pixels)
    assert Path(result.hits[0].path).name == "beach.mp4"
    assert result.images == ("<image>",)


def test_nothing_to_search_is_refused(archive: Archive) -> None:
    with pytest.raises(QueryError, match="nothing to search"):
        archive.search()


def test_a_folder_that_is_no_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="not a library of videos"):
        Archive.open(tmp_path, model=colour_grounder(tmp_path)).search("red")


def test_a_folder_of_other_things_does_not_become_a_library(tmp_path: Path) -> None:
    make_colours(tmp_path / "videos")
    with pytest.raises(LibraryError, match=r"holds beach.mp4"):
        Archive.open(tmp_path / "videos", model=colour_grounder(tmp_path)).add(tmp_path / "videos")


def test_a_library_of_nothing_answers_with_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    report = archive.add(tmp_path / "broken.mp4")
    assert list(report.failed) == [str(tmp_path / "broken.mp4")]
    assert archive.search("red").hits == ()


def test_what_was_removed_takes_no_place_in_the_answer(tmp_path: Path) -> None:
    """Its rows, which stay until the library is compacted, are nearer than all others."""
    words = "1\n00:00:00,500 --> 00:00:03,000\nAll is yellow\n\n"
    videos = tmp_path / "videos"
    write_colours(videos / "long.mp4", ["yellow"] * 200)
    (videos / "long.srt").write_text(words * 120, encoding="utf-8")
    write_colours(videos / "short.mp4", ["pink", "yellow", "green"])
    (videos / "short.srt").write_text(words.replace("All", "Here all"), encoding="utf-8")
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    archive.add(videos)
    remove_videos(archive.tables, [str(videos / "long.mp4")], None)
    assert found(archive, "yellow", words=False) == [("short.mp4", 4, 8)]
    assert archive.search("yellow").hits[0].words == "Here all is yellow"
    yellow = np.full((8, 8, 3), COLOURS["yellow"], np.uint8)
    assert found(archive, image=[yellow, yellow]) == [("short.mp4", 4, 8)]


@pytest.mark.parametrize("keep", ["tokens", "vectors"])
def test_the_last_window_ends_with_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: Keep
) -> None:
    """A video of 16.8 s has 8 clips of 2 s, and its moments may reach to its end."""
    ground = ColourGrounder.ground
    ends_s: list[float] = []

    def watched(self: ColourGrounder, video: EncodedVideo, query: str, **options: Any) -> Any:
        ends_s.append(video.start_s + video.duration_s)
        return ground(self, video, query, **options)

    monkeypatch.setattr(ColourGrounder, "ground", watched)
    video = write_colours(tmp_path / "video.mp4", ["pink"], seconds=16.8)
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    archive.add(video, keep=keep)
    archive.search("pink")
    assert ends_s == pytest.approx([16.8])
    pink = np.full((8, 8, 3), COLOURS["pink"], np.uint8)
    assert [hit.end_s for hit in archive.search(image=pink)] == pytest.approx([16.8])
