"""Markers for editing programs, read back by OpenTimelineIO and the csv module."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET
from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote, urlparse

import opentimelineio as otio
import pytest

from r2rt.outputs import Answers, render
from tests.r2rt.outputs.material import MOMENTS, NTSC, RATES, answers_about, make_video

IN_ORDER = sorted(MOMENTS)
HOSTILE = 'a dog | "quoted" & <running>\n |C:ResolveColorRed |M:x'


@pytest.fixture(scope="module", params=RATES, ids=lambda rate: f"{float(rate):.6g}")
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = tmp_path_factory.mktemp("videos")
    video = make_video(folder / "häuser & co.mov", request.param, sound=True)
    return answers_about(video, ("a dog", MOMENTS[:2]), (HOSTILE, MOMENTS[2:]))


def spans(rate: Fraction) -> list[tuple[int, int]]:
    return [(round(Fraction(a) * rate), round(Fraction(b) * rate)) for a, b, _ in IN_ORDER]


def test_xmeml_by_opentimelineio(answers: Answers) -> None:
    rate = answers.source.rate
    read = otio.adapters.read_from_string(render("xmeml", answers), "fcp_xml")
    timelines = [read] if isinstance(read, otio.schema.Timeline) else list(read)
    (timeline,) = [item for item in timelines if isinstance(item, otio.schema.Timeline)]
    video, *sounds = timeline.tracks
    for track in (video, *sounds):
        clips = list(track.find_clips())
        found = [clip.source_range for clip in clips]
        start = answers.source.start_frame
        assert [
            (round(x.start_time.value) - start, round(x.end_time_exclusive().value) - start)
            for x in found
        ] == spans(rate)
    assert len(sounds) == 2
    for clip, (start_s, end_s, score) in zip(video.find_clips(), IN_ORDER, strict=True):
        url = clip.media_reference.target_url
        assert Path(unquote(urlparse(url).path)) == answers.path
        (marker,) = clip.markers
        assert f"score {score:.4f}" in str(marker.metadata) + marker.comment
        assert f"{start_s:.3f} to {end_s:.3f} s" in str(marker.metadata) + marker.comment


def test_xmeml_of_the_whole_video_has_a_marker_a_moment(answers: Answers) -> None:
    root = ET.fromstring(render("xmeml", answers))
    clip = root.find("project/children/clip")
    assert clip is not None
    found = [(m.findtext("in"), m.findtext("out")) for m in clip.findall("marker")]
    assert found == [(str(a), str(b)) for a, b in spans(answers.source.rate)]
    assert {m.findtext("name") for m in clip.findall("marker")} == {
        "a dog",
        " ".join(HOSTILE.split()),
    }
    rates = {(r.findtext("timebase"), r.findtext("ntsc")) for r in root.iter("rate")}
    rate = answers.source.rate
    assert rates == {(str(round(rate)), "TRUE" if rate.denominator == 1001 else "FALSE")}
    # Every reference leads to something.
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert {link.text for link in root.iter("linkclipref")} <= set(ids)
    full = [file for file in root.iter("file") if len(file)]
    assert len(full) == 1


def test_markers_for_resolve(answers: Answers) -> None:
    rate = answers.source.rate
    text = render("resolve-edl", answers)
    found = re.findall(
        r"^\d{3}  001      V     C        (\S+) \S+ (\S+) \S+\n (.*?) "
        r"\|C:ResolveColor(\w+) \|M:(.*?) \|D:(\d+)$",
        text,
        re.MULTILINE,
    )
    assert len(found) == 3
    for (source_in, record_in, note, color, name, length), (first, end) in zip(
        found, spans(rate), strict=True
    ):
        assert source_in == record_in
        at = otio.opentime.from_timecode(record_in, float(rate)).value
        hour = "01:00:00;00" if answers.source.drop else "01:00:00:00"
        assert at - otio.opentime.from_timecode(hour, float(rate)).value == first
        assert int(length) == end - first
        assert "score" in note
        assert "|" not in name
        assert color == ("Blue" if name == "a dog" else "Green")
    timeline = otio.adapters.read_from_string(text, "cmx_3600", rate=float(rate))
    assert len(list(timeline.find_clips())) == 3


@pytest.mark.parametrize("name", ["premiere-csv", "resolve-csv"])
def test_marker_lists(name: str, answers: Answers) -> None:
    rate = answers.source.rate
    rows = list(csv.DictReader(io.StringIO(render(name, answers), newline="")))
    begin, end, offset = ("In", "Out", "00:00:00:00")
    if name == "resolve-csv":
        begin, end = "Record In", "Record Out"
        offset = "01:00:00;00" if answers.source.drop else "01:00:00:00"
    zero = otio.opentime.from_timecode(offset, float(rate)).value
    read = [
        tuple(
            otio.opentime.from_timecode(row[key], float(rate)).value - zero for key in (begin, end)
        )
        for row in rows
    ]
    assert read == spans(rate)
    assert rows[0]["Marker Name" if name == "premiere-csv" else "Name"] == "a dog"


def test_a_file_with_its_own_timecode(tmp_path: Path) -> None:
    video = make_video(tmp_path / "day.mov", NTSC, timecode="00:00:59;20")
    asked = answers_about(video)
    root = ET.fromstring(render("xmeml", asked))
    (file,) = [file for file in root.iter("file") if len(file)]
    assert file.findtext("timecode/string") == "00:00:59;20"
    assert file.findtext("timecode/frame") == "1790"
    rows = list(csv.DictReader(io.StringIO(render("resolve-csv", asked), newline="")))
    assert rows[0]["Source In"] == "00:00:59;20"
