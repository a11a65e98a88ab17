"""Sequences: moments of several queries in order, not too far apart.

parts = grounder.ground(video, ["a dog", "a cat"])
for found in find_sequences(parts, within_s=10).moments:
    print(found.start_s, found.end_s, found.score, found.parts)
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import QueryError
from r2rt.grounding.moments import interval_iou
from r2rt.grounding.prediction import Moment, Prediction
from r2rt.timecode import parse_time

__all__ = ["SequenceMoment", "SequenceQuery", "find_sequences", "parse_sequence"]

Float = NDArray[np.float64]

_THEN = re.compile(r",?\s+then\s+", re.IGNORECASE)
_WITHIN = re.compile(
    r"(?P<query>.*\S)\s+within\s+(?P<value>[\d.:]+)\s*"
    r"(?P<unit>ms|s|m|h|secs?|seconds?|mins?|minutes?|hours?)?",
    re.IGNORECASE | re.DOTALL,
)
# Two sequences with at least this IoU are the same.
_SAME_IOU = 0.7
# How many later moments are compared with all earlier ones at once; it bounds memory.
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class SequenceMoment(Moment):
    """A sequence: from the start of its first part to the end of its last one.

    Attributes:
        parts: a moment of each query, in order.
    """

    parts: tuple[Moment, ...]


@dataclass(frozen=True, kw_only=True)
class SequenceQuery:
    """Queries whose moments are to follow one another.

    Attributes:
        queries: two or more, in order.
        within_s: for each query but the first, the most seconds between the end of the previous
            moment and its start; None for any.
    """

    queries: tuple[str, ...]
    within_s: tuple[float | None, ...]

    def __post_init__(self) -> None:
        if len(self.queries) < 2 or len(self.within_s) != len(self.queries) - 1:
            raise QueryError("a sequence has two queries or more, and a gap between each two")
        if not all(query.strip() for query in self.queries):
            raise QueryError("a query of the sequence is empty; write A then B within 10s")
        for gap in self.within_s:
            if gap is not None and not 0 <= gap < math.inf:
                raise QueryError(f"within {gap:g} s: give a number of seconds, 0 or more")

    @property
    def text(self) -> str:
        """The sequence as a sentence: `A then B within 10 s`."""
        words = [self.queries[0]]
        for query, gap in zip(self.queries[1:], self.within_s, strict=True):
            words.append(f"then {query}" + ("" if gap is None else f" within {gap:g} s"))
        return " ".join(words)


def parse_sequence(text: str) -> SequenceQuery:
    """Return the sequence of `A then B`, `A then B within 10s`, `A then B within 5s then C`.

    `within` limits the gap before the query that it is written after.

    Raises:
        QueryError: the text is no sequence.
    """
    first, *rest = _THEN.split(text.strip())
    queries = [first]
    gaps: list[float | None] = []
    for piece in rest:
        found = _WITHIN.fullmatch(piece)
        if found is None:
            queries.append(piece)
            gaps.append(None)
            continue
        unit = (found["unit"] or "").lower()
        queries.append(found["query"])
        gaps.append(parse_time(found["value"] + (unit if unit == "ms" else unit[:1])))
    if len(queries) < 2:
        raise QueryError(f"{text!r} is no sequence; write A then B within 10s")
    return SequenceQuery(queries=tuple(queries), within_s=tuple(gaps))


def find_sequences(
    predictions: Sequence[Prediction],
    *,
    within_s: float | Sequence[float | None] | None = None,
    top_k: int | None = None,
    min_score: float = 0.0,
) -> Prediction:
    """Return where moments of these queries follow one another, best first.

    One moment follows another if it starts and ends later, and starts no more than `within_s` after
    the other ended. It may start up to a clip earlier, since boundaries are no finer. A sequence's
    score is the geometric mean of its parts' scores. Each moment of the last query ends at most one
    sequence, the best one. Of sequences with an IoU of 0.7 or more, only the best is kept.

    Args:
        predictions: an answer to each query, in order, all about one video.
        within_s: the most seconds between two moments, or one such number for each gap in order;
            None for any.
        top_k: how many to keep at most; None keeps all.
        min_score: sequences below this score are dropped.

    Returns:
        A prediction whose moments are `SequenceMoment`s. Its saliency is the parts' maximum for
        each clip, it has no boundaries, and the sequence is present if all parts are.

    Raises:
        QueryError: fewer than two predictions, or answers about several videos, or a gap below 0.
    """
    gaps = (
        tuple(within_s) if isinstance(within_s, Sequence) else (within_s,) * (len(predictions) - 1)
    )
    asked = SequenceQuery(queries=tuple(p.query for p in predictions), within_s=gaps)
    first = predictions[0]
    if any(p.video != first.video or len(p.saliency) != len(first.saliency) for p in predictions):
        raise QueryError("a sequence lies in one video; these answers are about several")
    chains = _best_chains([p.moments for p in predictions], gaps, 1.0 / float(first.fps))
    moments = [found for found in _distinct(chains) if found.score >= min_score]
    sure = [p.presence_score for p in predictions if p.presence_score is not None]
    return dataclasses.replace(
        first,
        query=asked.text,
        moments=tuple(moments[:top_k]),
        saliency=np.max([p.saliency for p in predictions], axis=0),
        boundaries=np.empty((0, 3)),
        query_truncated=any(p.query_truncated for p in predictions),
        unknown_words=tuple(dict.fromkeys(word for p in predictions for word in p.unknown_words)),
        present=_all_present([p.present for p in predictions]),
        presence_score=min(sure) if len(sure) == len(predictions) else None,
        presence_statistics=np.empty((0, first.presence_statistics.shape[1])),
    )


def _all_present(present: Sequence[bool | None]) -> bool | None:
    if False in present:
        return False
    return None if None in present else True


def _best_chains(
    moments: Sequence[Sequence[Moment]], gaps: Sequence[float | None], clip_s: float
) -> list[SequenceMoment]:
    """Return the best chain for each moment of the last query that ends one.

    Ties prefer the predecessors that come first.
    """
    rows = [_rows(found) for found in moments]
    product = rows[0][:, 2]
    steps: list[NDArray[np.intp]] = []
    for earlier, later, gap in zip(rows, rows[1:], gaps, strict=False):
        before, best = _predecessors(earlier, later, product, gap, clip_s)
        steps.append(before)
        product = np.where(before < 0, -1.0, best * later[:, 2])
    found = []
    for last in range(len(rows[-1])):
        chain, index = [moments[-1][last]], last
        for number in range(len(steps) - 1, -1, -1):
            index = int(steps[number][index])
            if index < 0:
                break
            chain.insert(0, moments[number][index])
        if len(chain) == len(moments):
            score = float(product[last]) ** (1 / len(chain))
            found.append(_joined(chain, score))
    return found


def _joined(chain: Sequence[Moment], score: float) -> SequenceMoment:
    return SequenceMoment(
        start_s=chain[0].start_s, end_s=chain[-1].end_s, score=score, parts=tuple(chain)
    )


def _predecessors(
    earlier: Float, later: Float, product: Float, gap: float | None, clip_s: float
) -> tuple[NDArray[np.intp], Float]:
    """Return each later moment's best predecessor (-1 for none), and that one's product."""
    before = np.full(len(later), -1, np.intp)
    best = np.full(len(later), -1.0)
    if not len(earlier):
        return before, best
    # Times are sums of floats: a little more than a clip, and than the gap.
    slack = 1.001 * clip_s
    most = math.inf if gap is None else gap + 1e-3 * clip_s
    for start in range(0, len(later), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        rows = later[part, None]
        between = rows[..., 0] - earlier[None, :, 1]
        follows = (
            (rows[..., 0] > earlier[None, :, 0])
            & (rows[..., 1] > earlier[None, :, 1])
            & (between >= -slack)
            & (between <= most)
        )
        candidates = np.where(follows & (product >= 0), product, -1.0)
        index = candidates.argmax(axis=1)
        value = candidates[np.arange(len(index)), index]
        before[part] = np.where(value >= 0, index, -1)
        best[part] = value
    return before, best


def _rows(moments: Sequence[Moment]) -> Float:
    return np.array([(m.start_s, m.end_s, m.score) for m in moments], np.float64).reshape(-1, 3)


def _distinct(chains: Sequence[SequenceMoment]) -> list[SequenceMoment]:
    ordered = sorted(chains, key=lambda x: (-x.score, x.start_s, x.end_s))
    rows = _rows(ordered)
    alive = np.ones(len(rows), bool)
    for index in range(len(rows)):
        if alive[index]:
            iou = interval_iou(rows[index : index + 1, :2], rows[index + 1 :, :2])[0]
            alive[index + 1 :] &= iou < _SAME_IOU
    return [chain for chain, kept in zip(ordered, alive.tolist(), strict=True) if kept]
