"""Summaries: within the length, optimal against every selection, the same every time."""

from __future__ import annotations

import itertools
import resource
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2rt.errors import QueryError
from r2rt.selection.shots import find_shots
from r2rt.selection.summary import (
    best_subset,
    budget_clips,
    choose_shots,
    choose_summary,
    summarize,
)
from tests.r2rt.answers import prediction
from tests.r2rt.fakes import fake_grounder, frames_with_red

_ITEMS = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), max_size=8)


@given(_ITEMS, st.integers(0, 30))
def test_no_other_selection_is_worth_more(items: list[tuple[int, int]], budget: int) -> None:
    lengths, values = [x for x, _ in items], [x for _, x in items]
    chosen = best_subset(lengths, values, budget)
    assert chosen == sorted(set(chosen))
    assert sum(lengths[i] for i in chosen) <= budget
    best = max(
        sum(values[i] for i in subset)
        for size in range(len(items) + 1)
        for subset in itertools.combinations(range(len(items)), size)
        if sum(lengths[i] for i in subset) <= budget
    )
    assert sum(values[i] for i in chosen) == best


def test_of_equal_items_the_first_are_taken() -> None:
    assert best_subset([2, 2, 2, 2], [5, 5, 5, 5], 5) == [0, 1]


@st.composite
def _videos(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    values = draw(st.lists(st.integers(-4, 8).map(lambda x: x / 8), min_size=1, max_size=24))
    inner = draw(st.sets(st.integers(1, len(values))))
    return np.array(values, np.float32), sorted({0, len(values), *inner})


def worth(saliency: np.ndarray, spans: list[tuple[int, int]]) -> float:
    """What a selection is worth, in units of saliency above the lowest clip's."""
    return sum(float((saliency[a:b] - saliency.min()).sum()) for a, b in spans)


@given(_videos())
def test_selections_keep_to_every_budget_and_grow_in_worth(
    video: tuple[np.ndarray, list[int]],
) -> None:
    saliency, borders = video
    before = 0.0
    for budget in range(1, len(saliency) + 2):
        spans = choose_shots(saliency, borders, budget)
        assert spans == choose_shots(saliency.copy(), list(borders), budget)
        assert sum(end - start for start, end in spans) <= budget
        for (_, b), (c, _) in itertools.pairwise(spans):
            assert b <= c
        for start, end in spans:
            # A whole shot, or as much of one as fits.
            shot = max(x for x in borders[:-1] if x <= start), min(x for x in borders if x >= end)
            assert (start, end) == shot or (
                shot in itertools.pairwise(borders) and end - start == budget < shot[1] - shot[0]
            )
        value = worth(saliency, spans)
        assert value >= before - 1e-5
        before = value
    assert spans == list(itertools.pairwise(borders))  # all of it fits


def test_a_long_shot_is_cut_to_its_best_part() -> None:
    saliency = np.array([0, 0.1, 0.2, 0.9, 1.0, 0.3, 0, 0.2], np.float32)
    assert choose_shots(saliency, [0, 7, 8], 3) == [(3, 6)]
    assert choose_shots(saliency, [0, 7, 8], 1) == [(4, 5)]


def test_a_flat_video_fills_the_length() -> None:
    spans = choose_shots(np.full(20, 0.5, np.float32), [0, 5, 10, 15, 20], 10)
    assert spans == [(0, 5), (5, 10)]


@pytest.mark.parametrize(
    ("length", "clips"),
    [("60s", 30), ("10%", 12), ("1:00", 30), (9.9, 4), (2, 1), ("100%", 120), ("1h", 1800)],
)
def test_lengths(length: float | str, clips: int) -> None:
    assert budget_clips(length, 240.0, Fraction(1, 2)) == clips


@pytest.mark.parametrize(("duration_s", "clips"), [(0.5, 1), (3.0, 2), (11, 6), (61.3, 31)])
@pytest.mark.parametrize("length", ["100%", "62s"])
def test_the_whole_length_has_room_for_every_clip(
    length: str, duration_s: float, clips: int
) -> None:
    assert min(budget_clips(length, duration_s, Fraction(1, 2)), clips) == clips
    if length == "100%":
        assert budget_clips(length, duration_s, Fraction(1, 2)) == clips


@pytest.mark.parametrize("length", ["0%", "101%", "x%", "nan%", "soon", 0, -3, "1s", float("inf")])
def test_what_is_no_length(length: float | str) -> None:
    with pytest.raises(QueryError):
        budget_clips(length, 240.0, Fraction(1, 2))


def test_a_summary_is_in_order_and_what_touches_as_one(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file)
    video = grounder.encode_frames(frames_with_red(list(range(100, 112))), 0.5)
    values = [0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8]
    answer = prediction(values, duration_s=23.5)
    found = choose_summary(grounder, video, answer, length="16s")
    starts = [moment.start_s for moment in found.moments]
    assert starts == sorted(starts)
    for first, second in itertools.pairwise(found.moments):
        assert first.end_s < second.start_s
    assert sum(m.end_s - m.start_s for m in found.moments) <= 16
    assert found.moments[-1].end_s == 23.5
    whole = summarize(grounder, video, "a dog", length="100%")
    assert [(m.start_s, m.end_s) for m in whole.moments] == [(0, 24)]
    with pytest.raises(QueryError, match="a clip"):
        summarize(grounder, video, length="1s")


def test_three_hours_take_little() -> None:
    """A clip a second, a third of it kept: shots and knapsack, in tens of megabytes."""
    count = 3 * 3600
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count // 6, 64)).repeat(6, axis=0)
    features += 0.1 * rng.normal(size=features.shape)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    before = _peak_bytes()
    borders = find_shots(features, max_clips=10)
    spans = choose_shots(rng.random(count), borders, count // 3)
    assert borders == [*range(0, count + 1, 6)]
    assert count // 3 - 6 < sum(b - a for a, b in spans) <= count // 3
    assert _peak_bytes() - before < 100e6


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
