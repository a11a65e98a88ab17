"""File names, lanes and peaks: what pictures and clips are arranged by."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2rt.grounding.prediction import Moment
from r2rt.media.lanes import lanes
from r2rt.media.names import moment_names, slug
from r2rt.media.peaks import peak_s
from tests.r2rt.media.footage import prediction


@given(st.text(), st.integers(1, 100))
def test_a_slug_is_safe_whatever_the_text(text: str, most: int) -> None:
    name = slug(text, most, empty="x")
    assert 0 < len(name.encode()) <= most
    assert all(sign.isalnum() or sign == "-" for sign in name)
    assert not name.startswith("-")


def test_a_slug_keeps_other_scripts_and_cuts_between_words() -> None:
    assert slug("Собака ловит фрисби!") == "собака-ловит-фрисби"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("a dog catches", 8) == "a-dog"
    assert slug("?!") == "query"


@given(st.lists(st.text(max_size=4), max_size=6))
def test_no_two_moments_have_one_name(queries: list[str]) -> None:
    asked = [prediction((0, 1, 0.9), (0, 1, 0.8), query=query) for query in queries]
    names = [name for name, _ in moment_names("video", asked)]
    assert len({name.casefold() for name in names}) == 2 * len(queries)


def test_names_sort_by_rank_also_beyond_ninety_nine() -> None:
    asked = [prediction(*((0.0, 1.0 + at / 100, 0.5) for at in range(120)))]
    names = [name for name, _ in moment_names("v", asked)]
    assert names == sorted(names)


SPANS = st.lists(
    st.tuples(st.floats(0, 100), st.floats(0, 20)).map(lambda at: (at[0], at[0] + at[1])),
    max_size=30,
)


@given(SPANS)
def test_no_two_spans_of_a_lane_overlap_and_the_best_is_on_top(
    spans: list[tuple[float, float]],
) -> None:
    placed = lanes(spans, 0.1)
    assert placed[:1] == [0][: len(spans)]
    for (one, lane), (other, beside) in itertools.combinations(zip(spans, placed, strict=True), 2):
        assert lane != beside or one[1] <= other[0] or other[1] <= one[0]
    # No more lanes than needed by the greediest span.
    assert set(placed) == set(range(max(placed, default=-1) + 1))


@given(st.floats(0, 18), st.floats(0.01, 10), st.integers(0, 2**32 - 1))
def test_a_peak_lies_inside_of_its_moment(start_s: float, length_s: float, seed: int) -> None:
    answer = prediction((start_s, start_s + length_s, 0.9))
    noise = np.random.default_rng(seed).random(len(answer.saliency))
    answer.saliency[:] = noise
    (moment,) = answer.moments
    assert moment.start_s <= peak_s(answer, moment) < moment.end_s


def test_a_peak_is_the_middle_of_the_most_salient_clip() -> None:
    answer = prediction((4.0, 12.0, 0.9), duration_s=20)
    answer.saliency[:] = [9, 9, 0, 1, 5, 2, 9, 9, 9, 9]
    assert peak_s(answer, answer.moments[0]) == 9.0
    assert peak_s(answer, Moment(start_s=8.2, end_s=8.4, score=1)) == pytest.approx(8.3)
