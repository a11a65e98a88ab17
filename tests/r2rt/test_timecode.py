"""Times in and out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2rt.errors import QueryError
from r2rt.timecode import format_clock, parse_time


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
    "text", ["", "abc", "-5", "1:75", "1:70:00", "5 apples", "1::2", "nan", "inf", "1e3"]
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
