"""Subtitles: read from files beside videos and from streams inside, searched, kept up to date."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from r2rt.archive import writer
from r2rt.archive.formats import render
from r2rt.archive.library import Archive
from r2rt.archive.piece import words_of
from r2rt.archive.scan import scan
from r2rt.archive.subtitles import Line, lines_of, subtitle_names, words_key
from r2rt.cli.hits_media import deliver_hits_media
from r2rt.cli.media import MediaOptions
from r2rt.errors import MissingExtraError
from tests.r2rt.archive.colours import colour_grounder, make_colours
from tests.r2rt.video.clips import write_video

SRT = """1
00:00:00,500 --> 00:00:03,000
The <i>sun</i> is yellow

2
00:00:08,000 --> 00:00:11,500
Waves are blue
and they break
"""
TTML = b"<tt xmlns='http://www.w3.org/ns/ttml'><body><div>"


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


def test_which_files_belong_to_a_video(tmp_path: Path) -> None:
    for name in ("talk.SRT", "talk.en.vtt", "talk-2.srt", "talks.srt", "talk.txt", ".srt", "a.srt"):
        (tmp_path / name).write_text(SRT, encoding="utf-8")
    (tmp_path / "talk.de.srt").mkdir()
    files = {tmp_path / "talk.SRT", tmp_path / "talk.en.vtt"}
    video = tmp_path / "talk.mp4"
    before = words_key(video, subtitle_names(tmp_path))
    for file in tmp_path.iterdir():
        os.utime(file, (1, 1))
        after = words_key(video, subtitle_names(tmp_path))
        assert (after != before) == (file in files), file.name
        before = after


def test_a_folder_of_many_videos_is_not_listed_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings: list[Any] = []

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def listing(folder: Any = ".") -> Any:
            listings.append(folder)
            return real(folder)

        return listing

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    counts = []
    for videos in (2, 9):
        folder = tmp_path / str(videos)
        folder.mkdir()
        for number in range(videos):
            (folder / f"{number}.mp4").write_bytes(b"")
            (folder / f"{number}.srt").write_text(SRT, encoding="utf-8")
        listings.clear()
        found = scan([str(folder)], {}).work
        counts.append(len(listings))
        assert len({file.words_key for file in found} - {""}) == videos
    assert counts[0] == counts[1]


def test_a_line_that_two_files_have_comes_once(videos: Path) -> None:
    shutil.copy(videos / "beach.en.srt", videos / "beach.srt")
    assert len(list(lines_of(videos / "beach.mp4"))) == 2


def test_lines_of_a_stream_inside_the_video(videos: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside.mkv"
    with (
        av.open(str(videos / "beach.mp4")) as pictures,
        av.open(str(videos / "beach.en.srt")) as words,
        av.open(str(inside), "w") as both,
    ):
        sources: list[Any] = [pictures.streams.video[0], words.streams.subtitles[0]]
        tracks = [both.add_stream_from_template(source) for source in sources]
        tracks[1].metadata["language"] = "eng"
        for source, track in zip(sources, tracks, strict=True):
            for packet in source.container.demux(source):
                if packet.dts is not None:
                    packet.stream = track
                    both.mux(packet)
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


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)) * 10,
        TTML + b"<p begin='0s' end",
        TTML + b"<p begin='x' end='1s'>a</p></div></body></tt>",
        b"{1}{1}25\n{" + b"9" * 400 + b"}{" + b"9" * 401 + b"}a\n",
        b"[" + b"9" * 400 + b"][" + b"9" * 401 + b"] a\n",
        b'{"info": 1, "styles": {}, "events": []}',
        b'{"info": {}, "styles": {}, "events": [{"start": 0, "end": Infinity, "text": "a"}]}',
        b'{"info": {}, "styles": {}, "events": [{"start": 0, "end": "b", "text": "a"}]}',
    ],
)
def test_a_damaged_file_is_left_out(videos: Path, content: bytes) -> None:
    (videos / "beach.en.srt").write_bytes(content)
    assert list(lines_of(videos / "beach.mp4")) == []


def test_half_a_character_becomes_a_mark(videos: Path) -> None:
    event = '{"start": 0, "end": 9, "text": "a \\ud800 b"}'
    content = f'{{"info": {{}}, "styles": {{}}, "events": [{event}]}}'
    (videos / "beach.en.srt").write_text(content, encoding="utf-8")
    assert [line.text for line in lines_of(videos / "beach.mp4")] == ["a ? b"]


@pytest.mark.parametrize(
    ("beginning", "mark"),
    [
        *((SRT, mark) for mark in ("<", "{", "<a", "\n")),
        ("WEBVTT\n\n00:00.500 --> 00:03.000\nThe sun\n", "<a"),
        ("{1}{1}25\n{0}{90}The sun\n", "{y:"),
        ("{1}{1}25\n{0}{90}The sun\n{0}{90}", "{y:"),
    ],
)
def test_marks_without_an_end_do_not_take_for_ever(videos: Path, beginning: str, mark: str) -> None:
    """Those that take the square of a length take an hour for such a file."""
    (videos / "beach.en.srt").write_text(beginning + 1_000_000 * mark, encoding="utf-8")
    assert next(lines_of(videos / "beach.mp4")).text.startswith("The sun")


def test_words_end_where_the_video_does(archive: Archive, videos: Path, tmp_path: Path) -> None:
    """Files of a longer cut, and lines about who made the subtitles, go on behind the end."""
    (videos / "night.srt").write_text(
        "1\n00:00:13,000 --> 00:00:30,000\nStill cyan\n\n"
        "2\n01:00:08,000 --> 01:00:11,500\nCyan by night\n",
        encoding="utf-8",
    )
    archive.add(videos)
    found = archive.search("cyan")
    spoken = {hit.words: (hit.start_s, hit.end_s) for hit in found if hit.words}
    assert "Cyan by night" not in spoken
    assert all(hit.end_s <= hit.duration_s for hit in found)
    deliver_hits_media(found, MediaOptions(reel=tmp_path / "reel.mp4"), quiet=True)
    assert (tmp_path / "reel.mp4").is_file()


def test_a_moment_that_shows_and_says_it_comes_first(archive: Archive) -> None:
    """Blue is longer in the night, but said on the beach."""
    best = archive.search("blue").hits[0]
    assert Path(best.path).name == "beach.mp4"
    assert best.words == "Waves are blue and they break"
    silent = archive.search("blue", words=False)
    assert all(hit.words is None for hit in silent)


def test_lines_of_two_tracks_at_one_time_are_one_moment(archive: Archive, videos: Path) -> None:
    (videos / "beach.en.srt").write_text(SRT.replace("sun", "cyan sun"), encoding="utf-8")
    (videos / "beach.de.srt").write_text(SRT.replace("sun", "cyan Sonne"), encoding="utf-8")
    archive.add(videos)
    found = archive.search("cyan")
    assert [(hit.start_s, hit.end_s) for hit in found if hit.words] == [(0.5, 3.0)]
    timeline = json.loads(render("otio", found))
    assert len(timeline["tracks"]["children"][0]["children"]) == len(found)


@pytest.mark.parametrize(("query", "present"), [("blue", False), ("yellow", True)])
def test_one_word_of_the_query_does_not_make_it_present(
    archive: Archive, query: str, present: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model says that it is absent: a line says otherwise if it has all words."""
    grounder: Any = archive.grounder
    monkeypatch.setattr(grounder, "knows", lambda _: False)
    monkeypatch.setattr(grounder, "embed_text", lambda _: np.ones((1, 3), np.float32))
    ground = grounder.ground
    monkeypatch.setattr(grounder, "ground", lambda video, *_, **__: ground(video, "red"))
    text = {"blue": "blue sun", "yellow": "a yellow sun"}[query]
    found = archive.search(text)
    assert any(hit.words for hit in found)
    assert found.present is present


def test_changed_words_are_read_without_encoding_again(archive: Archive, videos: Path) -> None:
    before = archive.tables.clips.latest().count_rows()
    (videos / "beach.en.srt").unlink()
    (videos / "night.srt").write_text(SRT.replace("Waves", "Nights"), encoding="utf-8")
    archive.add(videos)
    assert archive.tables.clips.latest().count_rows() == before
    best = archive.search("blue").hits[0]
    assert (Path(best.path).name, best.words) == ("night.mp4", "Nights are blue and they break")
    assert "Waves are blue and they break" not in {hit.words for hit in archive.search("blue")}


def test_changed_words_are_committed_while_others_are_read(
    archive: Archive, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = []

    def words(path: str, speech: str | None) -> list[Line]:
        committed.append(archive.tables.subtitles.latest().count_rows())
        return words_of(path, speech)

    monkeypatch.setattr(writer, "words_of", words)
    monkeypatch.setattr(writer, "_BATCH_VIDEOS", 1)
    for name in ("garden", "night"):
        (videos / f"{name}.srt").write_text(SRT, encoding="utf-8")
    assert archive.add(videos).unchanged == 3
    assert committed == [2, 4]


@pytest.mark.parametrize("copied", [False, True])
def test_words_that_cannot_be_read_do_not_stop_the_others(
    archive: Archive, videos: Path, monkeypatch: pytest.MonkeyPatch, copied: bool
) -> None:
    for name in ("garden", "night"):
        (videos / f"{name}.srt").write_text(SRT.replace("sun", name), encoding="utf-8")
        if copied:
            os.utime(videos / f"{name}.mp4", (1, 1))

    def read(video: Path) -> Iterator[Line]:
        if video.name == "garden.mp4":
            raise MissingExtraError("no reader")
        return lines_of(video)

    reasons: dict[str, str] = {}
    with monkeypatch.context() as broken:
        broken.setattr("r2rt.archive.piece.lines_of", read)
        report = archive.add(videos, failed=reasons.__setitem__)
    assert reasons == report.failed == {str(videos / "garden.mp4"): "no reader"}
    assert report.unchanged == 2
    assert "The night is yellow" in {hit.words for hit in archive.search("yellow")}
    assert {row["state"] for row in archive.videos()} == {"ready"}
    assert archive.add(videos).failed == {}
    assert "The garden is yellow" in {hit.words for hit in archive.search("yellow")}


def test_a_broadcast_whose_sound_begins_later_ends_nothing(tmp_path: Path) -> None:
    # FFmpeg looks for tracks in the first 5 MB and at the end.
    how: dict[str, Any] = {"codec": "mpeg2video", "size": (720, 576)}
    how["options"] = {"g": "1", "qmin": "1", "qmax": "1", "b": "400M"}
    silent = write_video(tmp_path / "silent.ts", frames=16, **how)
    sound = write_video(tmp_path / "sound.ts", frames=2, audio_start_s=Fraction(0), **how)
    parts = [with_bitmap_subtitles(path).read_bytes() for path in (silent, sound)]
    video = tmp_path / "joined.ts"
    video.write_bytes(parts[0] + parts[1] + parts[0])
    (tmp_path / "joined.srt").write_text(SRT, encoding="utf-8")
    assert len(list(lines_of(video))) == 2


def with_bitmap_subtitles(path: Path) -> Path:
    """Write a copy of a video with a DVB subtitle, an empty page, behind its frames' track."""
    copy = path.with_suffix(".dvb.ts")
    with av.open(str(path)) as source, av.open(str(copy), "w") as target:
        tracks: list[Any] = [target.add_stream_from_template(source.streams.video[0])]
        subtitle = target.add_stream("dvbsub")
        tracks += [target.add_stream_from_template(stream) for stream in source.streams.audio]
        packets = [packet for packet in source.demux() if packet.dts is not None]
        empty = av.Packet(bytes.fromhex("20000f10000100020100 0f8000010000 00ff"))
        empty.pts = empty.dts = packets[0].dts
        empty.time_base, empty.stream = packets[0].time_base, subtitle
        target.mux(empty)
        for packet in packets:
            packet.stream = tracks[packet.stream_index]
            target.mux(packet)
    return copy
