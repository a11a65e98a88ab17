"""Names and queries that would drive a terminal or a spreadsheet, and rates that are no video's."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import opentimelineio as otio
import pytest

from r2rt.outputs import FORMATS, render
from r2rt.outputs.source import editing_rate
from r2rt.timecode import parse_timecode
from tests.r2rt.outputs.material import answers_about, make_video

ESCAPES = "red \x1b[31m \x1b]0;title\x07 \x9b2J \r\x08 end\u202e"
FORMULA = '=HYPERLINK("http://x","y")'


@pytest.mark.parametrize("name", list(FORMATS))
def test_no_format_hands_control_characters_to_a_terminal(name: str) -> None:
    answers = answers_about(f"a {ESCAPES}.mp4", (ESCAPES, [(1, 2, 0.5)]), frame_rate=Fraction(25))
    text = render(name, answers)
    controls = {c for c in text if ord(c) < 32 or 127 <= ord(c) < 160} - {"\n", "\r", "\t"}
    assert controls == set()
    assert "\r" not in text.replace("\r\n", "")


def test_json_keeps_what_it_escapes() -> None:
    answers = answers_about("a.mp4", (ESCAPES, [(1, 2, 0.5)]))
    assert json.loads(render("json", answers))["results"][0]["query"] == ESCAPES
    assert json.loads(render("jsonl", answers))["query"] == ESCAPES


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", " =", "\t=", "\r="])
def test_csv_cells_are_no_formulas_unless_asked(sign: str) -> None:
    query = f"{sign}1+1"
    (row,) = read_csv(render("csv", answers_about("a.mp4", (query, [(1, 2, 0.5)]))))
    assert row["query"] == "'" + query.replace("\t", " ").replace("\r", " ")
    (row,) = read_csv(render("csv", answers_about("a.mp4", (query, [(1, 2, 0.5)]), csv_raw=True)))
    assert row["query"] == query
    (row,) = read_csv(render("csv", answers_about("-v.mp4", (FORMULA, [(1, 2, 0.5)]))))
    assert (row["video"], row["query"]) == ("'-v.mp4", f"'{FORMULA}")
    assert (row["start_s"], row["score"]) == ("1", "0.5")


@pytest.mark.parametrize(
    ("rate", "counted"),
    [
        *((Fraction(120), 60), (Fraction(240), 60), (Fraction(1, 60), 25), (Fraction(1, 2), 25)),
        *((Fraction(25, 2), 25), (Fraction(25, 3), 25)),
    ],
)
def test_edl_counts_rates_that_timecode_cannot(rate: Fraction, counted: int) -> None:
    moments = [(60.0, 120.0, 0.9), (240.0, 300.0, 0.5)]
    answers = answers_about("a.mp4", ("q", moments), seconds=600, frame_rate=rate)
    timeline = otio.adapters.read_from_string(
        render("edl", answers), "cmx_3600", rate=float(counted)
    )
    spans = [clip.source_range for clip in timeline.find_clips()]
    assert [
        (span.start_time.to_seconds(), span.end_time_exclusive().to_seconds()) for span in spans
    ] == [moment[:2] for moment in moments]


@pytest.mark.parametrize(("rate", "frames"), [(Fraction(15, 2), 8), (Fraction(90), 45)])
def test_edl_of_rates_that_few_programs_have(rate: Fraction, frames: int) -> None:
    """7.5 frames a second are counted at 15, 90 as they are."""
    answers = answers_about("a.mp4", ("q", [(600.5, 610.0, 0.9)]), seconds=700, frame_rate=rate)
    lines = render("edl", answers).splitlines()
    (event,) = (line.split() for line in lines if line.startswith("001"))
    assert event[4:6] == [f"00:10:00:{frames:02d}", "00:10:10:00"]


def test_edl_of_a_file_of_120_frames_a_second(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", Fraction(120), seconds=3)
    text = render("edl", answers_about(video, ("q", [(0.5, 2.0, 0.9)]), seconds=3))
    (clip,) = otio.adapters.read_from_string(text, "cmx_3600", rate=60).find_clips()
    assert clip.source_range.start_time.to_seconds() == 0.5
    assert clip.source_range.duration.to_seconds() == 1.5


def test_a_rate_of_119_88_is_counted_in_drop_frame_timecode_at_59_94() -> None:
    asked = answers_about("a.mp4", ("q", [(61.0, 62.0, 0.9)]), seconds=120)
    for drop_frame, drop in ((None, True), (False, False)):
        answers = replace(asked, frame_rate=Fraction(120000, 1001), drop_frame=drop_frame)
        lines = render("edl", answers).splitlines()
        assert lines[1] == ("FCM: DROP FRAME" if drop else "FCM: NON-DROP FRAME")
        (event,) = (line.split() for line in lines if line.startswith("001"))
        # Frame 3656 at 59.94 a second; drop-frame timecode skips four numbers in minute 1.
        assert event[4] == ("00:01:01;00" if drop else "00:01:00:56")


@pytest.mark.parametrize(("drop_frame", "mark"), [(True, ";"), (False, ":")])
def test_a_start_timecode_keeps_its_hours_at_another_rate(drop_frame: bool, mark: str) -> None:
    """At 119.88 frames a second no numbers are skipped, which are at 59.94."""
    source = answers_about("a.mp4", frame_rate=Fraction(120000, 1001)).source
    start = parse_timecode("10:00:00:00", source.rate)[0]
    carried = replace(source, start_frame=start, drop_frame=drop_frame)
    assert carried.at_rate(Fraction(60000, 1001)).timecode(0) == f"10:00:00{mark}00"


def test_a_share_of_a_network_is_a_host_of_its_own() -> None:
    answers = answers_about("a.mp4", ("q", [(1, 2, 0.5)]), frame_rate=Fraction(25))
    share = PureWindowsPath(r"\\nas\share\a b.mp4")
    local = PureWindowsPath(r"D:\a b.mp4")
    for path, address in (
        (share, "file://nas/share/a%20b.mp4"),
        (local, "file://localhost/D:/a%20b.mp4"),
    ):
        place: Any = SimpleNamespace(name="a", absolute=lambda path=path: path)
        source = replace(answers.source, path=place)
        answers.__dict__["source"] = source
        assert f"<pathurl>{address}</pathurl>" in render("xmeml", answers)


def test_sound_of_unknown_rate_has_none() -> None:
    answers = answers_about("a.mp4", frame_rate=Fraction(25))
    answers.__dict__["source"] = replace(answers.source, sound_channels=2)
    for name in ("fcpxml", "xmeml", "otio"):
        assert "None" not in render(name, answers)


def test_rates_for_editing_programs() -> None:
    for same in (Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60)):
        assert editing_rate(same) == same
    assert editing_rate(Fraction(120000, 1001)) == Fraction(60000, 1001)
    assert editing_rate(Fraction(25, 2)) == 25
    assert editing_rate(Fraction(1, 60)) == 25
    assert 1 <= editing_rate(Fraction(1000, 997)) <= 60
