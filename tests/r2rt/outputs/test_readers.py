"""Every format, read back by a program that is not ours, on sources of every kind of rate."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import xml.etree.ElementTree as ET
from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote, urlparse

import av
import numpy as np
import opentimelineio as otio
import pysubs2
import pytest
import webvtt

from r2rt.errors import NotAVideoError, QueryError
from r2rt.outputs import FORMATS, Answers, render
from r2rt.outputs.edl_format import reel_name
from tests.conftest import CHECKOUT
from tests.r2rt.outputs.material import (
    MOMENTS,
    NTSC,
    RATES,
    SECONDS,
    answers_about,
    make_video,
    variable_times,
)
from tests.r2rt.video.oracle import needs_ffmpeg

IN_ORDER = sorted(MOMENTS)
QUERY = 'a dog, "quoted" & <running>'


@pytest.fixture(scope="module", params=RATES, ids=lambda rate: f"{float(rate):.6g}")
def constant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = tmp_path_factory.mktemp("videos")
    return answers_about(make_video(folder / "häuser & co.mov", request.param, sound=True))


@pytest.fixture(scope="module")
def variable(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    path = tmp_path_factory.mktemp("videos") / "phone.mp4"
    return answers_about(make_video(path, Fraction(30), times=variable_times()))


@pytest.fixture(scope="module")
def film_of_day(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """29.97 with the file's own timecode, ten pictures before a minute that drops names."""
    path = tmp_path_factory.mktemp("videos") / "day.mov"
    return answers_about(make_video(path, NTSC, timecode="00:00:59;20"))


def frames(rate: Fraction) -> list[tuple[int, int]]:
    return [(round(Fraction(a) * rate), round(Fraction(b) * rate)) for a, b, _ in IN_ORDER]


def clips_of(timeline: otio.schema.Timeline, kind: str = "Video") -> list[otio.schema.Clip]:
    return [clip for track in timeline.tracks if track.kind == kind for clip in track.find_clips()]


def pictures(span: otio.opentime.TimeRange) -> tuple[int, int]:
    return round(span.start_time.value), round(span.end_time_exclusive().value)


def test_edl_by_opentimelineio(constant: Answers) -> None:
    rate = constant.source.rate
    text = render("edl", constant)
    timeline = otio.adapters.read_from_string(text, "cmx_3600", rate=float(rate))
    assert timeline.name == constant.path.stem
    clips = clips_of(timeline)
    assert [pictures(clip.source_range) for clip in clips] == frames(rate)
    assert [clip.name for clip in clips] == [constant.path.name] * 3
    assert {clip.metadata["cmx_3600"]["reel"] for clip in clips} == {"HAUSERCO"}
    # One after another on the record side, without gaps, from the first hour on.
    lengths = [end - first for first, end in frames(rate)]
    starts = [round(clip.range_in_parent().start_time.value) for clip in clips]
    assert starts == [sum(lengths[:n]) for n in range(3)]
    assert len(clips_of(timeline, "Audio")) == 6  # two channels
    assert f"* QUERY: {QUERY}" in text
    assert [line for line in text.splitlines() if line.startswith("* SCORE")][1] == (
        f"* SCORE: {IN_ORDER[1][2]:.4f}"
    )
    assert ("FCM: DROP FRAME" in text) is constant.source.drop
    assert (";" in text.splitlines()[3]) is constant.source.drop


def test_edl_of_a_file_with_its_own_drop_frame_timecode(film_of_day: Answers) -> None:
    text = render("edl", film_of_day)
    clips = clips_of(otio.adapters.read_from_string(text, "cmx_3600", rate=float(NTSC)))
    assert [pictures(clip.source_range) for clip in clips] == [
        (first + 1790, end + 1790) for first, end in frames(NTSC)
    ]
    events = [line.split() for line in text.splitlines() if line[:3].isdigit()]
    assert events[0][4:] == ["00:00:59;20", "00:01:00;22", "01:00:00;00", "01:00:01;00"]
    plain = render("edl", answers_about(film_of_day.video, drop_frame=False))
    assert "00:00:59:20" in plain
    assert ";" not in plain.replace("<", "")


def test_otio_by_opentimelineio(constant: Answers) -> None:
    rate = constant.source.rate
    timeline = otio.adapters.read_from_string(render("otio", constant), "otio_json")
    assert isinstance(timeline, otio.schema.Timeline)
    clips = clips_of(timeline)
    assert [pictures(clip.source_range) for clip in clips] == frames(rate)
    assert [clip.source_range for clip in clips_of(timeline, "Audio")] == [
        clip.source_range for clip in clips
    ]
    assert clips[0].source_range.start_time.rate == float(rate)
    for clip, (start_s, end_s, score) in zip(clips, IN_ORDER, strict=True):
        found = clip.metadata["r2rt"]
        assert (found["start_s"], found["end_s"], found["score"]) == (start_s, end_s, score)
        assert clip.markers[0].name == found["query"] == QUERY
        assert clip.markers[0].marked_range == clip.source_range
        media = clip.media_reference
        assert Path(unquote(urlparse(media.target_url).path)) == constant.path
        assert media.available_range.clamped(clip.source_range) == clip.source_range
        assert pictures(media.available_range) == (0, round(SECONDS * rate))
    again = otio.adapters.write_to_string(timeline, "otio_json")
    assert otio.adapters.read_from_string(again, "otio_json").is_equivalent_to(timeline)
    # The library's own writer agrees with our edit list on every time.
    theirs = otio.adapters.read_from_string(render("edl", constant), "cmx_3600", rate=float(rate))
    assert [clip.source_range for clip in clips_of(theirs)] == [clip.source_range for clip in clips]


def test_otio_of_a_file_with_its_own_timecode(film_of_day: Answers) -> None:
    timeline = otio.adapters.read_from_string(render("otio", film_of_day), "otio_json")
    first = clips_of(timeline)[1]
    assert first.media_reference.available_range.start_time.to_timecode() == "00:00:59;20"
    assert timeline.global_start_time.to_timecode() == "01:00:00;00"
    assert clips_of(timeline, "Audio") == []


def test_fcpxml_times_are_whole_frames(constant: Answers) -> None:
    rate = constant.source.rate
    root = ET.fromstring(render("fcpxml", constant))

    def find(element: ET.Element, path: str) -> ET.Element:
        found = element.find(path)
        assert found is not None, path
        return found

    def time(element: ET.Element, name: str) -> int:
        text = element.get(name, "")
        assert text.endswith("s")
        count = Fraction(text[:-1]) * rate
        assert count.denominator == 1, text
        return int(count)

    def span(element: ET.Element) -> tuple[int, int]:
        return time(element, "start"), time(element, "start") + time(element, "duration")

    assert time(find(root, "resources/format"), "frameDuration") == 1
    asset = find(root, "resources/asset")
    assert span(asset) == (0, round(SECONDS * rate))
    source = urlparse(find(asset, "media-rep").get("src", ""))
    assert Path(unquote(source.path)) == constant.path
    assert asset.get("audioRate") == "48000"
    keywords = root.findall("library/event/asset-clip/keyword")
    assert [span(keyword) for keyword in keywords] == frames(rate)
    assert {keyword.get("value") for keyword in keywords} == {QUERY.replace(",", " ")}
    sequence = find(root, "library/event/project/sequence")
    assert sequence.get("tcFormat") == ("DF" if constant.source.drop else "NDF")
    at = time(sequence, "tcStart")
    for clip, expected in zip(sequence.findall("spine/asset-clip"), frames(rate), strict=True):
        assert span(clip) == expected
        assert time(clip, "offset") == at
        assert find(clip, "marker").get("value") == QUERY
        at += expected[1] - expected[0]
    assert time(sequence, "duration") == at


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(50)])
def test_fcpxml_by_opentimelineio(tmp_path: Path, rate: Fraction) -> None:
    # Its reader takes 29.97 for 29, and cuts off where it should round: 58/25 s is picture 57.
    answers = answers_about(make_video(tmp_path / "a.mp4", rate))
    events = otio.adapters.read_from_string(render("fcpxml", answers), "fcpx_xml")
    (timeline,) = [item for item in events if isinstance(item, otio.schema.Timeline)]
    clips = list(timeline.find_clips())
    read = np.array([pictures(clip.source_range) for clip in clips])
    assert np.isin(np.array(frames(rate)) - read, (0, 1)).all()
    assert [clip.markers[0].name for clip in clips] == [QUERY] * 3


def test_a_varying_rate_is_named_and_exact_seconds_stand_beside(variable: Answers) -> None:
    assert variable.source.variable
    text = render("edl", variable)
    assert "* SECONDS: 2.340 TO 5.670" in text
    clips = clips_of(otio.adapters.read_from_string(text, "cmx_3600", rate=30))
    first_frame_s = float(variable.source.first_frame_s)
    for clip, (start_s, end_s, _) in zip(clips, IN_ORDER, strict=True):
        first, end = pictures(clip.source_range)
        assert abs(first / 30 + first_frame_s - start_s) <= 1 / 60 + 0.011
        assert abs(end / 30 + first_frame_s - end_s) <= 1 / 60
    timeline = otio.adapters.read_from_string(render("otio", variable), "otio_json")
    assert timeline.metadata["r2rt"]["variable_frame_rate"] is True
    assert clips_of(timeline)[1].metadata["r2rt"]["start_s"] == 2.34
    assert "2.340 to 5.670 s" in render("fcpxml", variable)
    for name in ("srt", "vtt"):
        read = pysubs2.SSAFile.from_string(render(name, variable), format_=name)
        assert [(cue.start, cue.end) for cue in read] == milliseconds()


def milliseconds() -> list[tuple[int, int]]:
    return [(round(start_s * 1000), round(end_s * 1000)) for start_s, end_s, _ in IN_ORDER]


def test_subtitles_by_pysubs2_and_webvtt(constant: Answers) -> None:
    srt = pysubs2.SSAFile.from_string(render("srt", constant), format_="srt")
    assert [(cue.start, cue.end) for cue in srt] == milliseconds()
    assert srt[1].plaintext == 'a dog, "quoted" & ‹running› (0.91)'
    vtt = list(webvtt.from_string(render("vtt", constant)).captions)
    assert [(cue.start, cue.end) for cue in vtt] == [
        ("00:00:00.000", "00:00:01.010"),
        ("00:00:02.340", "00:00:05.670"),
        ("00:00:04.200", "00:00:06.900"),
    ]
    assert [cue.identifier for cue in vtt] == ["1", "2", "3"]
    assert vtt[1].raw_text == 'a dog, "quoted" &amp; &lt;running&gt; (0.91)'


def test_a_query_cannot_break_out_of_a_cue(tmp_path: Path) -> None:
    hostile = "one\n\n2\n00:00:01,000 --> 00:00:02,000\n{\\an8}<b>two"
    answers = answers_about("a.mp4", (hostile, [(3, 4, 0.5)]))
    for name in ("srt", "vtt"):
        path = tmp_path / f"a.{name}"
        path.write_text(render(name, answers), encoding="utf-8")
        with av.open(str(path)) as container:  # FFmpeg's own reader
            assert [packet.pts for packet in container.demux() if packet.size] == [3000]
    assert len(webvtt.from_string(render("vtt", answers)).captions) == 1
    assert len(ET.fromstring(render("fcpxml", framed(answers))).findall(".//marker")) == 1
    lines = render("edl", framed(answers)).splitlines()
    assert [line[:3] for line in lines if line[:1].isdigit()] == ["001"]


def framed(answers: Answers) -> Answers:
    return Answers(
        video=answers.video,
        predictions=answers.predictions,
        qids=answers.qids,
        frame_rate=Fraction(25),
    )


def read_chapters(path: Path, form: str | None = None) -> list[tuple[float, float, str]]:
    with av.open(str(path), format=form) as container:
        return [
            (
                float(chapter["start"] * (chapter["time_base"] or 0)),
                float(chapter["end"] * (chapter["time_base"] or 0)),
                chapter["metadata"].get("title", ""),
            )
            for chapter in container.chapters()
        ]


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_chapters_by_ffmpeg_alone_and_in_a_video(tmp_path: Path, container: str) -> None:
    video = make_video(tmp_path / "a.mp4", Fraction(25))
    answers = answers_about(
        video,
        ("x=1; #2 \\o/ dog", [(0.5, 3, 0.9), (2, 4.25, 0.6)]),
        ("a cat", [(3.5, 5, 0.7)]),
    )
    metadata = tmp_path / "a.chapters.txt"
    metadata.write_text(render("chapters", answers), encoding="utf-8")
    dog, worse, cat = "x=1; #2 \\o/ dog (0.90)", "x=1; #2 \\o/ dog (0.60)", "a cat (0.70)"
    expected = [
        (0.0, 0.5, "–"),
        (0.5, 3.0, dog),
        (3.0, 3.5, worse),
        (3.5, 4.25, f"{cat} + {worse}"),
        (4.25, 5.0, cat),
        (5.0, 8.0, "–"),
    ]
    assert read_chapters(metadata, "ffmetadata") == expected
    out = tmp_path / f"out.{container}"
    with (
        av.open(str(video)) as source,
        av.open(str(metadata), format="ffmetadata") as chapters,
        av.open(str(out), "w") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        target.set_chapters(chapters.chapters())
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert read_chapters(out) == expected


@needs_ffmpeg
def test_chapters_by_the_documented_command(tmp_path: Path) -> None:
    """Also of a video that has chapters and a camera's timecode, each a track of data."""
    page = (CHECKOUT / "docs" / "guides" / "editor.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^\$ ffmpeg (.*-map_chapters.*)$", page, re.MULTILINE)
    video = make_video(tmp_path / "plain.mp4", Fraction(25), sound=True)
    (tmp_path / "out").mkdir()

    def ffmpeg(arguments: str) -> None:
        run = ["ffmpeg", "-v", "error", "-nostdin", "-y", *arguments.split()]
        subprocess.run(run, cwd=tmp_path, check=True)

    kinds: list[list[str]] = []
    ffmpeg("-i plain.mp4 -map 0 -timecode 01:00:00:00 -codec copy talk.mp4")
    for name in ("old", "new"):
        chapters = render("chapters", answers_about(video, (name, [(2.0, 4.0, 0.5)])))
        (tmp_path / "out" / "talk.chapters.txt").write_text(chapters, encoding="utf-8")
        ffmpeg(command)
        with av.open(str(tmp_path / "with-chapters.mp4")) as made:
            kinds.append([stream.type for stream in made.streams])
        (tmp_path / "with-chapters.mp4").replace(tmp_path / "talk.mp4")
        expected = [(0.0, 2.0, "–"), (2.0, 4.0, f"{name} (0.50)"), (4.0, 8.0, "–")]
        assert read_chapters(tmp_path / "talk.mp4") == expected
    assert kinds[0] == kinds[1]  # the old chapters' track is not there beside the new one


def test_moments_that_touch_are_chapters_of_their_own_though_they_score_alike() -> None:
    answers = answers_about("a.mp4", ("a dog", [(1, 2, 0.801), (2, 3, 0.799)]), seconds=4)
    starts = re.findall(r"START=(\d+)", render("chapters", answers))
    assert starts == ["0", "1000", "2000", "3000"]


def test_csv_by_the_csv_module() -> None:
    tricky = 'a "dog",\r\nand\n= a cat'
    answers = answers_about("a,b.mp4", (tricky, MOMENTS), ("nothing", []))
    failed = Answers(video="bad.mp4", error=NotAVideoError("bad.mp4: no video"))
    text = render("csv", [answers, failed])
    assert text.count("\r\n") == text.count("\n") - 3  # the query has a bare line feed
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == 4
    assert [row["query"] for row in rows[:3]] == [tricky] * 3
    assert [row["rank"] for row in rows[:3]] == ["1", "2", "3"]
    assert float(rows[0]["start_s"]) == 2.34
    assert (rows[0]["start"], rows[0]["end"]) == ("00:00:02.340", "00:00:05.670")
    assert (rows[3]["video"], rows[3]["error"]) == ("bad.mp4", "bad.mp4: no video")


def test_json_reports_videos_that_failed() -> None:
    failed = Answers(video="bad.mp4", error=NotAVideoError("bad.mp4: no video"))
    error = {"kind": "NotAVideoError", "code": 11, "message": "bad.mp4: no video"}
    good = answers_about("good.mp4")
    document = json.loads(render("json", [good, failed]))
    assert document["videos"][0] == json.loads(render("json", good))
    assert document["videos"][1] == {"schema_version": 1, "video": "bad.mp4", "error": error}
    lines = [json.loads(line) for line in render("jsonl", [good, failed]).splitlines()]
    assert [line["vid"] for line in lines] == ["good", "bad"]
    assert lines[1] == {"vid": "bad", "error": error}
    assert "failed: bad.mp4: no video" in render("table", [good, failed])


def test_formats_of_one_video_refuse_several() -> None:
    for name, item in FORMATS.items():
        if not item.holds_several:
            with pytest.raises(QueryError, match="--output-dir"):
                render(name, [answers_about("a.mp4"), answers_about("b.mp4")])
    with pytest.raises(QueryError, match="no format 'xml'"):
        render("xml", answers_about("a.mp4"))


@pytest.mark.parametrize("name", list(FORMATS))
def test_no_moments_are_a_valid_file_too(name: str) -> None:
    text = render(name, answers_about("a.mp4", ("nothing", []), frame_rate=NTSC))
    if name == "otio":
        assert clips_of(otio.adapters.read_from_string(text, "otio_json")) == []
    elif name == "fcpxml":
        assert ET.fromstring(text).findall(".//marker") == []
    elif name in {"srt", "vtt"}:
        assert list(pysubs2.SSAFile.from_string(text, format_=name)) == []
    elif name == "edl":
        assert clips_of(otio.adapters.read_from_string(text, "cmx_3600", rate=float(NTSC))) == []
    assert text or name == "srt"


def test_reel_names_are_eight_plain_letters() -> None:
    assert reel_name(Path("Café 2024-05-01.mp4")) == "CAFE2024"
    assert reel_name(Path("猫.mp4")) == "AX"
