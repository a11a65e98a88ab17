"""Subtitles: read from files beside videos and from streams inside, searched, kept up to date."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from r2rt.archive.library import Archive
from r2rt.archive.subtitles import lines_of
from tests.r2rt.archive.colours import colour_grounder, make_colours
from tests.r2rt.video.oracle import needs_ffmpeg

SRT = """1
00:00:00,500 --> 00:00:03,000
The <i>sun</i> is yellow

2
00:00:08,000 --> 00:00:11,500
Waves are blue
and they break
"""


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    make_colours(tmp_path / "videos")
    (tmp_path / "videos" / "beach.en.srt").write_text(SRT, encoding="utf-8")
    return tmp_path / "videos"


@pytest.fixture
def archive(tmp_path: Path, videos: Path) -> Archive:
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    archive.add(videos)
    return archive


def test_lines_of_a_file_beside_the_video(videos: Path) -> None:
    found = [(x.start_s, x.end_s, x.text, x.language) for x in lines_of(videos / "beach.mp4")]
    assert found == [
        (0.5, 3.0, "The sun is yellow", "en"),
        (8.0, 11.5, "Waves are blue and they break", "en"),
    ]
    assert list(lines_of(videos / "night.mp4")) == []


@needs_ffmpeg
def test_lines_of_a_stream_inside_the_video(videos: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside.mkv"
    inputs = ["-i", videos / "beach.mp4", "-i", videos / "beach.en.srt"]
    options = ["-c", "copy", "-metadata:s:s:0", "language=eng"]
    command = ["ffmpeg", "-v", "error", *map(str, inputs), *options, str(inside)]
    subprocess.run(command, check=True)
    found = [(x.start_s, x.end_s, x.text, x.language) for x in lines_of(inside)]
    assert found == [
        (0.5, 3.0, "The sun is yellow", "eng"),
        (8.0, 11.5, "Waves are blue and they break", "eng"),
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (SRT.replace("sun", "Süß").encode("utf-16"), "The Süß is yellow"),
        (SRT.replace("sun", "Süß").encode("cp1252"), "The Süß is yellow"),
        (b"\xef\xbb\xbf" + SRT.encode(), "The sun is yellow"),
    ],
)
def test_encodings_of_files(videos: Path, content: bytes, text: str) -> None:
    (videos / "beach.en.srt").write_bytes(content)
    assert next(iter(lines_of(videos / "beach.mp4"))).text == text


def test_a_damaged_file_is_left_out(videos: Path) -> None:
    (videos / "beach.en.srt").write_bytes(bytes(range(256)) * 10)
    assert list(lines_of(videos / "beach.mp4")) == []


def test_a_moment_that_shows_and_says_it_comes_first(archive: Archive) -> None:
    """Blue is longer in the night, but said on the beach."""
    best = archive.search("blue").hits[0]
    assert Path(best.path).name == "beach.mp4"
    assert best.words == "Waves are blue and they break"
    silent = archive.search("blue", words=False)
    assert all(hit.words is None for hit in silent)


def test_changed_words_are_read_without_encoding_again(archive: Archive, videos: Path) -> None:
    before = archive.tables.clips.latest().count_rows()
    (videos / "beach.en.srt").unlink()
    (videos / "night.srt").write_text(SRT.replace("Waves", "Nights"), encoding="utf-8")
    archive.add(videos)
    assert archive.tables.clips.latest().count_rows() == before
    best = archive.search("blue").hits[0]
    assert (Path(best.path).name, best.words) == ("night.mp4", "Nights are blue and they break")
    assert "Waves are blue and they break" not in {hit.words for hit in archive.search("blue")}
