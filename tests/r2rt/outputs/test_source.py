"""What files say of their rate, timecode, size and sound."""

from __future__ import annotations

import json
import struct
from fractions import Fraction
from pathlib import Path

import av
import pytest

from r2rt.cli.outputs import Delivery
from r2rt.errors import NotAVideoError, QueryError, SourceNotFoundError
from r2rt.outputs import read_source_facts
from r2rt.outputs.formats import FORMATS
from r2rt.outputs.source import simple_rate
from tests.r2rt.conftest import DEMO_VIDEO
from tests.r2rt.outputs.material import (
    FILM,
    NTSC,
    NTSC_60,
    PAL_50,
    RATES,
    SECONDS,
    answers_about,
    make_video,
    output_options,
    variable_times,
)


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov", "avi"])
@pytest.mark.parametrize("rate", [FILM, NTSC, PAL_50])
def test_the_rate_is_the_sources_own_whatever_the_containers_clock(
    tmp_path: Path, rate: Fraction, container: str
) -> None:
    facts = read_source_facts(make_video(tmp_path / f"a.{container}", rate))
    assert (facts.rate, facts.variable) == (rate, False)
    assert facts.frames == round(SECONDS * rate)
    assert facts.drop is (rate == NTSC)
    assert (facts.width, facts.height, facts.start_frame) == (64, 48, 0)
    assert (facts.sound_rate, facts.sound_channels) == (None, 0)


@pytest.mark.parametrize("rate", [Fraction(12), Fraction(15), Fraction(100), Fraction(25, 2)])
def test_unusual_rates_are_rates_too(tmp_path: Path, rate: Fraction) -> None:
    facts = read_source_facts(make_video(tmp_path / "a.mp4", rate))
    assert (facts.rate, facts.variable) == (rate, False)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_a_rate_that_varies_is_reported_and_the_usual_one_stands_in(
    tmp_path: Path, container: str
) -> None:
    path = make_video(tmp_path / f"a.{container}", Fraction(30), times=variable_times())
    facts = read_source_facts(path)
    assert facts.variable
    assert facts.rate == 30
    assert facts.frames == pytest.approx(30 * SECONDS, abs=2)
    asked = read_source_facts(path, frame_rate=Fraction(25))
    assert (asked.rate, asked.rate_is_own) == (Fraction(25), False)


def test_a_grid_that_everything_is_on_is_no_rate(tmp_path: Path) -> None:
    """As in recordings of screens: whole thousandths, and a file that claims 1000 a second."""
    times = [Fraction(33 * number + (number * number) % 29, 1000) for number in range(200)]
    facts = read_source_facts(make_video(tmp_path / "a.mkv", Fraction(1000), times=times))
    assert facts.variable
    assert 20 <= facts.rate <= 60


def test_missing_frames_leave_the_others_on_their_places(tmp_path: Path) -> None:
    times = [Fraction(number, 25) for number in range(200) if number not in {50, 51, 120}]
    facts = read_source_facts(make_video(tmp_path / "a.mp4", Fraction(25), times=times))
    assert (facts.rate, facts.variable, facts.frames) == (Fraction(25), False, 200)


@pytest.mark.parametrize(
    ("text", "rate", "frame", "drop"),
    [
        ("00:00:59;20", NTSC, 1790, True),
        ("10:00:00:00", NTSC, 1_080_000, False),
        ("01:00:00:00", PAL_50, 180_000, False),
        ("09:59:59:23", FILM, 863_999, False),
    ],
)
@pytest.mark.parametrize("container", ["mov", "mkv"])
def test_a_files_own_timecode(
    tmp_path: Path, text: str, rate: Fraction, frame: int, drop: bool, container: str
) -> None:
    facts = read_source_facts(make_video(tmp_path / f"a.{container}", rate, timecode=text))
    assert (facts.start_frame, facts.drop) == (frame, drop)
    assert facts.timecode(0) == text


@pytest.mark.parametrize(
    ("text", "rate", "asked", "start"),
    [
        ("10:00:00;00", NTSC, Fraction(25), "10:00:00:00"),
        ("10:00:00;15", NTSC, Fraction(24), "10:00:00:12"),
        ("09:59:59;29", NTSC, Fraction(30), "09:59:59:29"),
        ("10:00:00:24", Fraction(25), Fraction(24), "10:00:00:23"),
        ("10:00:00;40", NTSC_60, NTSC, "10:00:00;20"),
        ("10:00:00:10", Fraction(25), Fraction(24), "10:00:00:10"),  # such a number there is
    ],
)
def test_a_files_own_timecode_at_another_rate(
    tmp_path: Path, text: str, rate: Fraction, asked: Fraction, start: str
) -> None:
    path = make_video(tmp_path / "a.mov", rate, timecode=text, seconds=1)
    facts = read_source_facts(path, frame_rate=asked)
    assert (facts.timecode(0), facts.unread_timecode) == (start, None)


def test_a_drop_frame_timecode_of_a_rate_that_varies(tmp_path: Path) -> None:
    times = variable_times()
    path = make_video(tmp_path / "a.mkv", Fraction(30), times=times, timecode="01:00:00;10")
    facts = read_source_facts(path)
    assert (facts.rate, facts.timecode(0)) == (Fraction(30), "01:00:00:10")


def test_a_timecode_that_cannot_be_understood_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = make_video(tmp_path / "a.mkv", Fraction(25), timecode="at noon", seconds=1)
    facts = read_source_facts(video)
    assert (facts.start_frame, facts.unread_timecode) == (0, "at noon")
    for name in ("edl", "srt"):
        options = output_options(name, folder=tmp_path)
        Delivery(options, [str(video)], quiet=True).add(answers_about(video))
    assert capsys.readouterr().err.count("its start timecode 'at noon' cannot be understood") == 1


def test_a_timecode_track_that_counts_every_second_frame(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mov", NTSC_60, timecode="01:00:00;20", seconds=2)
    content = bytearray(path.read_bytes())
    entry = content.index(b"tmcd", content.index(b"stsd", content.index(b"gmhd"))) - 4
    # Behind size, type, reference and flags: units and frames a second, and a frame's units.
    assert struct.unpack_from(">IIB", content, entry + 24) == (60000, 1001, 60)
    struct.pack_into(">IIB", content, entry + 24, 30000, 1001, 30)
    first = 3600 * 30 - 108 + 20  # an hour of drop-frame timecode skips 108 numbers
    at = content.index(struct.pack(">I", 3600 * 60 - 216 + 20))
    struct.pack_into(">I", content, at, first)
    path.write_bytes(content)
    with av.open(str(path)) as container:
        (track,) = container.streams.data
        assert track.metadata["timecode"] == "01:00:00;20"
        if not hasattr(track, "index_entries"):
            pytest.skip(f"PyAV {av.__version__} does not say where the track lies")
    facts = read_source_facts(path)
    assert (facts.rate, facts.start_frame, facts.drop) == (NTSC_60, 2 * first, True)
    assert facts.timecode(0) == "01:00:00;40"


def test_drop_frame_as_asked_where_there_is_such(tmp_path: Path) -> None:
    ntsc = make_video(tmp_path / "a.mp4", NTSC)
    pal = make_video(tmp_path / "b.mp4", PAL_50)
    assert not read_source_facts(ntsc, drop_frame=False).drop
    assert not read_source_facts(pal, drop_frame=True).drop
    declared = make_video(tmp_path / "c.mov", NTSC, timecode="00:00:00:00")
    assert read_source_facts(declared, drop_frame=True).drop


def test_sound_and_the_demo(tmp_path: Path) -> None:
    facts = read_source_facts(make_video(tmp_path / "a.mp4", Fraction(25), sound=True))
    assert (facts.sound_rate, facts.sound_channels) == (48000, 2)
    assert read_source_facts(DEMO_VIDEO).rate == 24


@pytest.mark.parametrize("rate", RATES)
def test_spans_are_whole_frames_inside_the_video(tmp_path: Path, rate: Fraction) -> None:
    facts = read_source_facts(make_video(tmp_path / "a.mp4", rate))
    for start_s, end_s in ((0.0, 1e-9), (2.345, 2.346), (7.999, 8.5), (9, 10), (1.5, 6.5)):
        first, end = facts.span(start_s, end_s)
        assert 0 <= first < end <= facts.frames
    first, end = facts.span(1.503, 6.511)
    assert abs(float(facts.seconds(first)) - 1.503) <= 0.5 / rate
    assert abs(float(facts.seconds(end)) - 6.511) <= 0.5 / rate


def test_frames_count_from_the_first_also_where_sound_begins_before(tmp_path: Path) -> None:
    times = [Fraction(1, 2) + Fraction(number, 25) for number in range(100)]
    path = make_video(tmp_path / "a.mkv", Fraction(25), times=times, sound=True)
    facts = read_source_facts(path)
    assert float(facts.first_frame_s) == pytest.approx(0.5, abs=0.002)
    assert facts.span(0.5, 1.5) == (0, 25)


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("nothing")
    with pytest.raises(NotAVideoError, match="bad"):
        read_source_facts(bad)
    with pytest.raises(SourceNotFoundError, match="none"):
        read_source_facts(tmp_path / "none.mp4")
    with pytest.raises(QueryError, match="--frame-rate"):
        _ = answers_about("gone.mp4").source
    assert answers_about("gone.mp4", frame_rate=NTSC_60).source.frames == round(8 * NTSC_60)


def test_measured_rates_become_those_that_are_meant() -> None:
    assert simple_rate(Fraction("23.976")) == FILM
    assert simple_rate(Fraction("29.97")) == NTSC
    assert simple_rate(Fraction("59.94")) == NTSC_60
    assert simple_rate(Fraction("24")) == 24
    assert simple_rate(Fraction(19001, 317)) == NTSC_60
    assert simple_rate(Fraction("12.5")) == Fraction(25, 2)


def test_a_copy_of_a_pipe_is_read_and_not_named(tmp_path: Path) -> None:
    copy = make_video(tmp_path / "copy.mp4", PAL_50)
    answers = answers_about("-", spool=copy)
    assert (answers.source.rate, answers.source.frames) == (PAL_50, SECONDS * 50)
    texts = {name: item.render(answers) for name, item in FORMATS.items()}
    assert not [name for name, text in texts.items() if "copy" in text or str(tmp_path) in text]
    assert json.loads(texts["json"])["video"] == "-"
