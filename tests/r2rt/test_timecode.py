"""Times in and out."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2rt.errors import QueryError
from r2rt.timecode import (
    drops_frames,
    format_clock,
    format_clock_ms,
    format_timecode,
    parse_time,
    parse_timecode,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1:15.5", 75.5),
        ("00:01:15.500", 75.5),
        ("10s", 10),
        ("5m", 300),
        ("1h", 3600),
        ("250ms", 0.25),
        (".5", 0.5),
        (" 7 ", 7),
        ("90:00", 5400),
    ],
)
def test_every_way_of_writing_a_time(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("", "abc", "-5", "1:75", "1:70:00", "5 apples", "1::2", "nan", "inf", "1e3"),
        *("9" * 400, f"{'9' * 400}:00", f"{'9' * 5000}:00:00"),
    ],
)
def test_what_is_no_time_is_refused_by_name(text: str) -> None:
    with pytest.raises(QueryError, match="is no time"):
        parse_time(text)


@pytest.mark.parametrize(
    ("seconds", "clock"),
    [
        (0, "0:00.0"),
        (75.55, "1:15.6"),
        (59.96, "1:00.0"),
        (3599.99, "1:00:00.0"),
        (3661.2, "1:01:01.2"),
    ],
)
def test_clock_times(seconds: float, clock: str) -> None:
    assert format_clock(seconds) == clock


@given(st.floats(0, 1e6))
def test_a_clock_time_reads_back_to_a_tenth(seconds: float) -> None:
    assert parse_time(format_clock(seconds)) == pytest.approx(seconds, abs=0.0501)


NTSC, NTSC_60 = Fraction(30000, 1001), Fraction(60000, 1001)
RATES = (Fraction(24000, 1001), NTSC, NTSC_60, *map(Fraction, (24, 25, 30, 50, 60)))


@pytest.mark.parametrize(
    ("frame", "rate", "text"),
    [
        (0, NTSC, "00:00:00;00"),
        (1799, NTSC, "00:00:59;29"),
        (1800, NTSC, "00:01:00;02"),  # ;00 and ;01 are left out
        (17981, NTSC, "00:09:59;29"),
        (17982, NTSC, "00:10:00;00"),  # but not in each tenth minute
        (107892, NTSC, "01:00:00;00"),
        (2589407, NTSC, "23:59:59;29"),
        (2589408, NTSC, "00:00:00;00"),  # a day is over
        (3599, NTSC_60, "00:00:59;59"),
        (3600, NTSC_60, "00:01:00;04"),
        (35964, NTSC_60, "00:10:00;00"),
    ],
)
def test_drop_frame_timecode_leaves_names_out(frame: int, rate: Fraction, text: str) -> None:
    assert format_timecode(frame, rate, drop=True) == text
    assert parse_timecode(text, rate) == (frame % 2589408, True)


@pytest.mark.parametrize(
    ("frame", "rate", "text"),
    [
        (86400, Fraction(24000, 1001), "01:00:00:00"),
        (108000, NTSC, "01:00:00:00"),
        (90049, Fraction(25), "01:00:01:24"),
        (49, Fraction(50), "00:00:00:49"),
        (119, Fraction(120), "00:00:00:119"),
    ],
)
def test_timecode_without_dropping(frame: int, rate: Fraction, text: str) -> None:
    assert format_timecode(frame, rate, drop=False) == text
    assert parse_timecode(text, rate) == (frame, False)


@given(st.integers(0, 2_000_000), st.sampled_from(RATES), st.booleans())
def test_timecode_reads_back_and_agrees_with_opentimelineio(
    frame: int, rate: Fraction, drop: bool
) -> None:
    import opentimelineio.opentime as otio_time

    drop = drop and drops_frames(rate)
    text = format_timecode(frame, rate, drop=drop)
    assert parse_timecode(text, rate) == (frame, drop)
    theirs = otio_time.to_timecode(
        otio_time.RationalTime(frame, float(rate)), float(rate), drop_frame=drop
    )
    assert text == theirs


@given(st.integers(0, 2_589_407))
def test_drop_frame_timecode_keeps_step_with_the_clock(frame: int) -> None:
    clock = re.split("[:;]", format_timecode(frame, NTSC, drop=True))
    hours, minutes, seconds, pictures = map(int, clock)
    named_s = hours * 3600 + minutes * 60 + seconds + pictures / 30
    # 2.6 pictures a day and the two of a minute; without dropping it is 86 s behind by then.
    assert abs(named_s - frame / NTSC) < 0.16


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("00:01:00;00", NTSC),
        ("00:11:00;03", NTSC_60),
        ("00:00:00:25", Fraction(25)),
        ("00:00:00;10", Fraction(25)),
        ("00:60:00:00", Fraction(25)),
        ("12", Fraction(25)),
    ],
)
def test_what_names_no_frame_is_refused(text: str, rate: Fraction) -> None:
    with pytest.raises(QueryError, match=text):
        parse_timecode(text, rate)


def test_drop_frame_where_there_is_none_is_a_fault() -> None:
    with pytest.raises(ValueError, match="no drop-frame"):
        format_timecode(0, Fraction(25), drop=True)
    with pytest.raises(ValueError, match="frame -1"):
        format_timecode(-1, Fraction(25), drop=False)


@given(st.floats(0, 1e5))
def test_fixed_clock_times_read_back_to_a_thousandth(seconds: float) -> None:
    text = format_clock_ms(seconds)
    assert parse_time(text) == pytest.approx(seconds, abs=0.000501)
    assert format_clock_ms(seconds, mark=",") == text.replace(".", ",")
