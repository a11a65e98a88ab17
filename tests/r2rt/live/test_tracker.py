"""Moments open once and close once, whatever the answers do while the window slides."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2rt import Moment
from r2rt.errors import QueryError
from r2rt.live.tracker import Change, MomentTracker, TrackerRules

CLIP_S = 2.0
Span = tuple[float, float, float]


def tracker(**rules: float) -> MomentTracker:
    return MomentTracker(TrackerRules(**rules), clip_s=CLIP_S, ids=itertools.count(1))  # type: ignore[arg-type]


def answer(
    subject: MomentTracker, *spans: Span, edge_s: float, start_s: float = 0.0
) -> list[Change]:
    moments = [Moment(start_s=start, end_s=end, score=score) for start, end, score in spans]
    return list(subject.update(moments, start_s=start_s, edge_s=edge_s))


def reported(changes: Sequence[Change], *kinds: str) -> list[tuple[str, int, float, float]]:
    kinds = kinds or ("opened", "closed")
    return [
        (item.kind, item.moment_id, item.start_s, item.end_s)
        for item in changes
        if item.kind in kinds
    ]


def test_a_moment_opens_at_the_edge_and_closes_when_its_end_stays_behind() -> None:
    subject = tracker(close_after=3)
    assert reported(answer(subject, (10, 12, 0.6), edge_s=12)) == [("opened", 1, 10, 12)]
    for edge_s in range(14, 22, 2):
        assert reported(answer(subject, (10, edge_s, 0.7), edge_s=edge_s)) == []
    # It ended at 20: the edge moves on without it.
    assert reported(answer(subject, (10, 20, 0.9), edge_s=22)) == []
    assert reported(answer(subject, (10, 20, 0.9), edge_s=24)) == []
    assert reported(answer(subject, (10, 21, 0.9), edge_s=26)) == []
    closing = answer(subject, (10, 21, 0.8), edge_s=28)
    assert reported(closing) == [("closed", 1, 10, 21)]
    assert (closing[0].reason, closing[0].score, closing[0].best_score) == ("ended", 0.8, 0.9)
    assert list(subject.close_all("stopped")) == []  # none is open


def test_an_end_that_still_moves_keeps_a_moment_open() -> None:
    subject = tracker(close_after=2)
    answer(subject, (10, 14, 0.6), edge_s=30)
    for step in range(5):
        assert reported(answer(subject, (10, 17 + 3 * step, 0.6), edge_s=40 + 2 * step)) == []
    assert reported(answer(subject, (10, 29, 0.6), edge_s=50)) == []
    assert reported(answer(subject, (10, 29, 0.6), edge_s=52)) == [("closed", 1, 10, 29)]


def test_what_was_closed_is_not_reported_again_while_the_window_holds_it() -> None:
    subject = tracker(close_after=1)
    answer(subject, (10, 20, 0.9), edge_s=40)
    assert reported(answer(subject, (10, 20, 0.9), edge_s=42)) == [("closed", 1, 10, 20)]
    for step in range(6):
        start_s = 2.0 * step
        spans = [(max(10 + step / 5, start_s), 20 - step / 5, 0.9)]
        assert answer(subject, *spans, start_s=start_s, edge_s=44 + 2 * step) == []
    # A part of it is nothing new, what only touches it is.
    assert answer(subject, (12, 15, 0.9), edge_s=60) == []
    assert reported(answer(subject, (19, 27, 0.9), edge_s=60)) == [("opened", 2, 19, 27)]


def test_what_left_the_window_is_forgotten() -> None:
    subject = tracker()
    answer(subject, (10, 20, 0.9), edge_s=40)
    leaving = answer(subject, start_s=20, edge_s=60)
    assert [(item.kind, item.reason) for item in leaving] == [("closed", "left")]
    answer(subject, start_s=22, edge_s=62)
    assert subject.remembered == 0


def test_a_moment_longer_than_the_window_keeps_its_beginning_and_its_number() -> None:
    subject = tracker()
    assert reported(answer(subject, (4, 10, 0.9), edge_s=10)) == [("opened", 1, 4, 10)]
    for edge_s in range(12, 200, 2):
        start_s = max(edge_s - 30, 0)
        assert (
            reported(
                answer(subject, (max(start_s, 4), edge_s, 0.9), start_s=start_s, edge_s=edge_s)
            )
            == []
        )
    closing = list(subject.close_all("stopped"))
    assert reported(closing) == [("closed", 1, 4, 198)]


def test_scores_between_keeping_and_opening_neither_open_nor_close() -> None:
    subject = tracker(min_score=0.5, keep_score=0.3, close_after=2)
    assert answer(subject, (10, 20, 0.45), edge_s=20) == []
    assert reported(answer(subject, (10, 22, 0.5), edge_s=22)) == [("opened", 1, 10, 22)]
    for edge_s in (24, 26, 28, 30):
        assert reported(answer(subject, (10, edge_s, 0.31), edge_s=edge_s)) == []
    assert reported(answer(subject, (10, 32, 0.29), edge_s=32)) == []
    fading = answer(subject, (10, 34, 0.29), edge_s=34)
    assert [(item.kind, item.reason, item.end_s) for item in fading] == [("closed", "faded", 30)]


def test_one_answer_without_it_does_not_close_a_moment() -> None:
    subject = tracker(close_after=2)
    answer(subject, (10, 20, 0.9), edge_s=20)
    for edge_s in range(22, 40, 4):
        assert reported(answer(subject, edge_s=edge_s)) == []
        assert reported(answer(subject, (10, edge_s + 2, 0.9), edge_s=edge_s + 2)) == []


def test_open_after_asks_for_answers_in_a_row() -> None:
    subject = tracker(open_after=3)
    for edge_s, score in ((20, 0.9), (22, 0.9), (24, 0.1), (26, 0.9), (28, 0.9)):
        assert answer(subject, (10, edge_s, score), edge_s=edge_s) == []
    assert reported(answer(subject, (10, 30, 0.9), edge_s=30)) == [("opened", 1, 10, 30)]


def test_spans_that_overlap_in_one_answer_are_one_moment_and_apart_are_several() -> None:
    subject = tracker()
    changes = answer(subject, (10, 20, 0.9), (11, 20, 0.8), (30, 36, 0.7), (18, 26, 0.6), edge_s=40)
    assert reported(changes) == [
        ("opened", 1, 10, 20),
        ("opened", 2, 18, 26),
        ("opened", 3, 30, 36),
    ]


def test_the_span_that_fits_best_takes_the_moment() -> None:
    subject = tracker(change_s=1)
    answer(subject, (10, 20, 0.9), edge_s=40)
    changes = answer(subject, (14, 26, 0.95), (10, 21, 0.6), edge_s=42)
    assert reported(changes, "opened", "changed") == [("changed", 1, 10, 21), ("opened", 2, 14, 26)]


def test_changes_are_reported_when_they_are_worth_it() -> None:
    subject = tracker(change_s=4)
    answer(subject, (10, 20, 0.9), edge_s=20)
    assert answer(subject, (10, 22, 0.9), edge_s=22) == []
    assert reported(answer(subject, (10, 24, 0.9), edge_s=24), "changed") == [
        ("changed", 1, 10, 24)
    ]
    assert answer(subject, (12, 24, 0.9), edge_s=26) == []


def test_closing_all_reports_only_what_is_open_and_forgets_everything() -> None:
    subject = tracker(close_after=1)
    answer(subject, (10, 20, 0.9), (30, 40, 0.9), edge_s=40)
    assert reported(answer(subject, (10, 20, 0.9), (30, 42, 0.9), edge_s=42)) == [
        ("closed", 1, 10, 20)
    ]
    closing = list(subject.close_all("gap"))
    assert [(item.moment_id, item.reason) for item in closing] == [(2, "gap")]
    assert subject.remembered == 0
    assert reported(answer(subject, (10, 20, 0.9), edge_s=44)) == [("opened", 3, 10, 20)]


def test_several_queries_share_their_numbers() -> None:
    ids = itertools.count(1)
    one, two = (MomentTracker(TrackerRules(), clip_s=CLIP_S, ids=ids) for _ in range(2))
    assert reported(answer(one, (0, 9, 0.9), edge_s=9)) == [("opened", 1, 0, 9)]
    assert reported(answer(two, (0, 9, 0.9), edge_s=9)) == [("opened", 2, 0, 9)]


spans = st.builds(
    lambda start, length, score: (float(start), float(start + length), score / 10),
    st.integers(0, 40),
    st.integers(1, 30),
    st.integers(0, 10),
)


@given(
    answers=st.lists(st.lists(spans, max_size=6), max_size=40),
    open_after=st.integers(1, 3),
    close_after=st.integers(1, 3),
)
def test_whatever_is_answered(answers: list[list[Span]], open_after: int, close_after: int) -> None:
    """Every number opens once, first, and closes once, last; the same again gives the same."""

    def run() -> list[Change]:
        subject = tracker(open_after=open_after, close_after=close_after)
        changes = []
        for step, now in enumerate(answers):
            start_s = 2.0 * step
            moved = [(start_s + start, start_s + end, score) for start, end, score in now]
            edge_s = start_s + 40
            inside = [
                (start, min(end, edge_s), score) for start, end, score in moved if start < edge_s
            ]
            changes += answer(subject, *inside, start_s=start_s, edge_s=edge_s)
            assert subject.remembered <= 6 * 20  # what the window can hold
        return changes + list(subject.close_all("stopped"))

    changes = run()
    assert changes == run()
    kinds: dict[int, list[str]] = {}
    for change in changes:
        kinds.setdefault(change.moment_id, []).append(change.kind)
        assert change.start_s < change.end_s
        assert change.best_score >= change.score
    for number, history in kinds.items():
        counts = Counter(history)
        assert (history[0], history[-1]) == ("opened", "closed"), number
        assert (counts["opened"], counts["closed"]) == (1, 1)
    assert sorted(kinds) == list(range(1, len(kinds) + 1))


def test_what_is_refused() -> None:
    for wrong in (
        {"min_score": 1.1},
        {"min_score": 0.4, "keep_score": 0.5},
        {"open_after": 0},
        {"close_after": 0},
        {"iou": 0.0},
    ):
        with pytest.raises(QueryError):
            TrackerRules(**wrong)
