"""A then B: order, gaps, scores, against all combinations; and how it is written."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2rt.errors import QueryError
from r2rt.grounding.prediction import Moment, Prediction
from r2rt.selection.sequences import SequenceMoment, SequenceQuery, find_sequences, parse_sequence
from tests.r2rt.answers import moments, prediction

CLIP_S = 2.0


def answer(query: str, *rows: tuple[float, float, float]) -> Prediction:
    return prediction(query=query, moments=moments(*rows))


def spans(found: Prediction) -> list[tuple[float, float]]:
    return [(moment.start_s, moment.end_s) for moment in found.moments]


def test_the_second_follows_the_first() -> None:
    dog, cat = answer("a dog", (10, 14, 0.9), (40, 44, 0.8)), answer("a cat", (16, 20, 0.4))
    (found,) = find_sequences([dog, cat]).moments
    assert isinstance(found, SequenceMoment)
    assert (found.start_s, found.end_s) == (10, 20)
    assert found.score == pytest.approx(math.sqrt(0.9 * 0.4))
    assert found.parts == (dog.moments[0], cat.moments[0])
    assert spans(find_sequences([cat, dog])) == [(16, 44)]


@pytest.mark.parametrize(
    ("within_s", "found"), [(None, 1), (10, 1), (6, 1), (5.9, 0), (0, 0)], ids=str
)
def test_the_gap_is_from_the_end_to_the_start(within_s: float | None, found: int) -> None:
    parts = [answer("a", (10, 14, 0.9)), answer("b", (20, 24, 0.9))]
    assert len(find_sequences(parts, within_s=within_s).moments) == found


def test_a_clip_of_overlap_is_a_matter_of_the_grid() -> None:
    first = answer("a", (10, 14, 0.9))
    assert spans(find_sequences([first, answer("b", (12, 16, 0.9))], within_s=0)) == [(10, 16)]
    assert spans(find_sequences([first, answer("b", (11.5, 16, 0.9))])) == []
    assert spans(find_sequences([first, answer("b", (12, 14, 0.9))])) == []  # ends with it
    assert spans(find_sequences([first, answer("b", (10, 12, 0.9))])) == []


def test_three_in_a_row_with_a_gap_for_each() -> None:
    parts = [answer("a", (0, 2, 1)), answer("b", (4, 6, 1)), answer("c", (16, 20, 0.125))]
    found = find_sequences(parts, within_s=[2, 10])
    assert found.query == "a then b within 2 s then c within 10 s"
    assert spans(found) == [(0, 20)]
    assert found.moments[0].score == pytest.approx(0.5)
    assert spans(find_sequences(parts, within_s=[2, 9])) == []
    assert spans(find_sequences(parts, within_s=[1, None])) == []


def test_the_answer_speaks_for_all_parts() -> None:
    words = {"unknown_words": ("wombat",)}
    yes = prediction([0, 1, 0], query="a", present=True, presence_score=0.99, **words)
    no = prediction([1, 0, 0], query="b", present=False, presence_score=0.5, query_truncated=True)
    unknown = prediction([0, 0, 0], query="c")
    both = find_sequences([yes, no])
    assert (both.present, both.presence_score) == (False, 0.5)
    assert both.saliency.tolist() == [1, 1, 0]
    assert both.query_truncated
    assert both.unknown_words == ("wombat",)
    assert find_sequences([yes, yes]).present is True
    assert find_sequences([yes, unknown]).present is None
    assert find_sequences([yes, unknown]).presence_score is None


def test_limits_on_what_is_reported() -> None:
    parts = [
        answer("a", (0, 2, 0.9), (20, 22, 0.4)),
        answer("b", (4, 6, 0.9), (24, 26, 0.4)),
    ]
    assert spans(find_sequences(parts, within_s=2)) == [(0, 6), (20, 26)]
    assert spans(find_sequences(parts, within_s=2, top_k=1)) == [(0, 6)]
    assert spans(find_sequences(parts, within_s=2, min_score=0.5)) == [(0, 6)]


def test_what_is_no_sequence_of_answers() -> None:
    with pytest.raises(QueryError, match="two queries or more"):
        find_sequences([answer("a")])
    with pytest.raises(QueryError, match="several"):
        find_sequences([answer("a"), prediction(query="b", video="other.mp4")])
    with pytest.raises(QueryError, match="0 or more"):
        find_sequences([answer("a"), answer("b")], within_s=-1)
    with pytest.raises(QueryError, match="a gap between"):
        find_sequences([answer("a"), answer("b")], within_s=[1, 2])


_MOMENTS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 6), st.sampled_from([0.0, 0.25, 0.5, 0.9])),
    max_size=6,
).map(
    lambda rows: [
        Moment(start_s=2.0 * start, end_s=2.0 * (start + length), score=score)
        for start, length, score in rows
    ]
)


@given(
    st.lists(_MOMENTS, min_size=2, max_size=3),
    st.one_of(st.none(), st.integers(0, 20).map(float)),
)
def test_of_all_combinations_the_best_for_each_end(
    lists: list[list[Moment]], within_s: float | None
) -> None:
    parts = [prediction(query=str(n), moments=tuple(found)) for n, found in enumerate(lists)]
    found = find_sequences(parts, within_s=within_s).moments
    chains = [chain for chain in itertools.product(*lists) if _follows(chain, within_s)]
    best: dict[int, float] = {}
    for chain in chains:
        score = math.prod(part.score for part in chain) ** (1 / len(chain))
        best[id(chain[-1])] = max(best.get(id(chain[-1]), 0.0), score)
    assert bool(found) == bool(chains)
    for moment in found:
        assert isinstance(moment, SequenceMoment)
        assert _follows(moment.parts, within_s)
        assert moment.start_s == moment.parts[0].start_s
        assert moment.end_s == moment.parts[-1].end_s
        assert moment.score == pytest.approx(best[id(moment.parts[-1])])
    scores = [moment.score for moment in found]
    assert scores == sorted(scores, reverse=True)
    if chains:
        assert scores[0] == pytest.approx(max(best.values()))


def _follows(chain: Sequence[Moment], within_s: float | None) -> bool:
    return all(
        b.start_s > a.start_s
        and b.end_s > a.end_s
        and b.start_s - a.end_s >= -CLIP_S
        and (within_s is None or b.start_s - a.end_s <= within_s)
        for a, b in itertools.pairwise(chain)
    )


@pytest.mark.parametrize(
    ("text", "queries", "gaps"),
    [
        ("a dog then a cat", ("a dog", "a cat"), (None,)),
        ("a dog then a cat within 10s", ("a dog", "a cat"), (10.0,)),
        ("a dog, THEN a cat within 1:30", ("a dog", "a cat"), (90.0,)),
        ("a then b within 10 seconds then c within 2 min", ("a", "b", "c"), (10.0, 120.0)),
        ("a then b within 500 ms then c", ("a", "b", "c"), (0.5, None)),
        ("he is then within reach then falls", ("he is", "within reach", "falls"), (None, None)),
    ],
)
def test_sequences_are_read(
    text: str, queries: tuple[str, ...], gaps: tuple[float | None, ...]
) -> None:
    parsed = parse_sequence(text)
    assert parsed == SequenceQuery(queries=queries, within_s=gaps)
    assert parse_sequence(parsed.text) == parsed


@pytest.mark.parametrize("text", ["a dog", "", "a dog then", "then a dog"])
def test_what_is_no_sequence_is_reported(text: str) -> None:
    with pytest.raises(QueryError, match="then"):
        parse_sequence(text)
