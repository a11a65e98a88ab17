"""From one answer after another to moments that open and close.

An answer is the moments of the last window, so the same moment is answered again and again, a
little different each time, while the window slides. The tracker reports each of them once:

- A moment opens when it scores at least `min_score` in `open_after` answers in a row.
- It stays open while it touches the live edge, and while it scores at least `keep_score`.
- It closes when its end lies behind the live edge and has stayed where it is (within a clip) for
  `close_after` answers (`ended`), when it was not answered `close_after` times in a row (`faded`),
  or when it has left the window (`left`).
- What is closed is remembered until it has left the window, so that it is not opened again.

Two spans are the same moment if their intersection over union reaches `iou`; besides, a span is the
same moment as one reported before of which it is a part, and as an open one that is now part of it.
Pairs are settled from the greatest overlap down, ties by time, so the outcome is deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from r2rt.errors import QueryError
from r2rt.grounding.prediction import Moment
from r2rt.live.events import CloseReason

__all__ = ["Change", "MomentTracker", "TrackerRules"]

# A span is a part of another if so much of it lies inside.
_PART = 0.7
# Times closer than this are the same: they went through floating point.
_CLOSE_S = 1e-6


@dataclass(frozen=True, kw_only=True)
class TrackerRules:
    """When a moment opens and when it closes; see the module.

    Attributes:
        min_score: what a moment must score to be opened.
        keep_score: what it must score to stay open; 0.8 of `min_score` if None.
        open_after: answers in a row that must hold it before it is opened.
        close_after: answers in a row after which it is closed.
        iou: overlap from which on two spans are the same moment.
        change_s: a span is reported as changed if it moved by so much; two clips if None.

    Raises:
        QueryError: a value out of its range.
    """

    min_score: float = 0.5
    keep_score: float | None = None
    open_after: int = 1
    close_after: int = 3
    iou: float = 0.5
    change_s: float | None = None

    def __post_init__(self) -> None:
        keep = self.kept_score
        if not 0 <= keep <= self.min_score <= 1:
            raise QueryError(
                f"scores to keep {keep} and to open {self.min_score}; "
                "expected 0 <= keep <= open <= 1"
            )
        if self.open_after < 1 or self.close_after < 1:
            raise QueryError(
                f"open after {self.open_after} answers, close after {self.close_after}; "
                "expected 1 or more"
            )
        if not 0 < self.iou <= 1:
            raise QueryError(f"iou {self.iou}; expected more than 0, at most 1")

    @property
    def kept_score(self) -> float:
        """What a moment must score to stay open."""
        return 0.8 * self.min_score if self.keep_score is None else self.keep_score


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became of a moment in an answer."""

    kind: Literal["opened", "changed", "closed"]
    moment_id: int
    start_s: float
    end_s: float
    score: float
    best_score: float
    reason: CloseReason | None = None


@dataclass(kw_only=True)
class _Track:
    """A moment that was answered: a candidate (id 0), open, or closed."""

    start_s: float
    end_s: float
    score: float
    best_score: float
    moment_id: int = 0
    closed: bool = False
    seen: int = 1
    missed: int = 0
    still: int = 0
    reported: tuple[float, float] = field(default=(0.0, 0.0))


class MomentTracker:
    """Follows the moments of one query; see the module.

    Args:
        rules: when moments open and close.
        clip_s: seconds of a clip: what touches the live edge, and what counts as standing still.
        ids: where moments get their numbers, shared by the trackers of several queries.
    """

    def __init__(self, rules: TrackerRules, *, clip_s: float, ids: Iterator[int]) -> None:
        self._rules = rules
        self._clip_s = clip_s
        self._change_s = 2 * clip_s if rules.change_s is None else rules.change_s
        self._ids = ids
        self._tracks: list[_Track] = []

    @property
    def remembered(self) -> int:
        """How many spans are kept in mind, open or not; bounded by what one window answers."""
        return len(self._tracks)

    def update(
        self, moments: Sequence[Moment], *, start_s: float, edge_s: float
    ) -> Iterator[Change]:
        """Take the answer about the window [start_s, edge_s); yield what changed.

        Args:
            moments: the answer, best first, on the stream's clock.
            start_s: where the window starts.
            edge_s: the live edge: where it ends.
        """
        spans = self._distinct(moments)
        pairs = self._pairs(spans, start_s, edge_s)
        taken: set[int] = set()
        for index, track in pairs:
            taken.add(index)
            if not track.closed:
                self._follow(track, spans[index], start_s)
        matched = {id(track) for _, track in pairs}
        for track in self._tracks:
            if id(track) not in matched:
                track.missed += 1
                track.seen = 0
                track.still = 0
        fresh = [
            _Track(start_s=span.start_s, end_s=span.end_s, score=span.score, best_score=span.score)
            for index, span in enumerate(spans)
            if index not in taken and span.score >= self._rules.min_score
        ]
        self._tracks += sorted(fresh, key=lambda track: (track.start_s, track.end_s))
        yield from self._settle(start_s, edge_s)

    def close_all(self, reason: CloseReason) -> Iterator[Change]:
        """Close what is open and forget everything."""
        for track in self._tracks:
            if track.moment_id and not track.closed:
                yield _change("closed", track, reason)
        self._tracks = []

    def _distinct(self, moments: Sequence[Moment]) -> list[Moment]:
        """Return the moments worth following, of which no two are the same moment."""
        kept: list[Moment] = []
        for moment in sorted(moments, key=lambda item: (-item.score, item.start_s, item.end_s)):
            if moment.score < self._rules.kept_score:
                continue
            if all(_iou(moment, other) < self._rules.iou for other in kept):
                kept.append(moment)
        return kept

    def _pairs(
        self, spans: Sequence[Moment], start_s: float, edge_s: float
    ) -> list[tuple[int, _Track]]:
        """Return which span is which track: open tracks take one span, closed ones any number."""
        candidates = []
        for place, track in enumerate(self._tracks):
            seen = _within(track, start_s, edge_s)
            for index, span in enumerate(spans):
                overlap = self._likeness(track, seen, span)
                if overlap > 0:
                    candidates.append((-overlap, track.closed, place, index))
        pairs: list[tuple[int, _Track]] = []
        spans_taken: set[int] = set()
        tracks_taken: set[int] = set()
        for _, closed, place, index in sorted(candidates):
            if index in spans_taken or (place in tracks_taken and not closed):
                continue
            spans_taken.add(index)
            tracks_taken.add(place)
            pairs.append((index, self._tracks[place]))
        return pairs

    def _likeness(self, track: _Track, seen: tuple[float, float], span: Moment) -> float:
        """Return how much a span and a track overlap, 0 where they are two moments."""
        common = min(span.end_s, seen[1]) - max(span.start_s, seen[0])
        if common <= 0:
            return 0.0
        length, seen_length = span.end_s - span.start_s, seen[1] - seen[0]
        iou = common / (length + seen_length - common)
        if iou >= self._rules.iou:
            return iou
        reported = bool(track.moment_id)
        if reported and common >= _PART * length:
            return iou
        if reported and not track.closed and common >= _PART * seen_length:
            return iou
        return 0.0

    def _follow(self, track: _Track, span: Moment, window_start_s: float) -> None:
        # What began before the window is cut off where the window begins: the start that was seen
        # before holds.
        cut = span.start_s <= window_start_s + self._clip_s and track.start_s < span.start_s
        moved = abs(span.end_s - track.end_s) > self._clip_s + _CLOSE_S
        track.still = 0 if moved else track.still + 1
        track.start_s = track.start_s if cut else span.start_s
        track.end_s = span.end_s
        track.score = span.score
        track.best_score = max(track.best_score, span.score)
        track.missed = 0
        # A candidate must reach the score to open in each answer; what is open need not.
        track.seen = track.seen + 1 if span.score >= self._rules.min_score else 0

    def _settle(self, start_s: float, edge_s: float) -> Iterator[Change]:
        kept = []
        for track in self._tracks:
            if track.closed:
                if track.end_s > start_s + _CLOSE_S:
                    kept.append(track)
                continue
            if not track.moment_id:
                if track.missed or not track.seen:
                    continue
                kept.append(track)
                if track.seen >= self._rules.open_after:
                    track.moment_id = next(self._ids)
                    track.reported = (track.start_s, track.end_s)
                    # Its end counts as standing still from here on.
                    track.still = 0
                    yield _change("opened", track)
                continue
            reason = self._why_over(track, start_s, edge_s)
            kept.append(track)
            if reason is not None:
                track.closed = True
                yield _change("closed", track, reason)
            elif self._has_changed(track):
                track.reported = (track.start_s, track.end_s)
                yield _change("changed", track)
        self._tracks = kept

    def _why_over(self, track: _Track, start_s: float, edge_s: float) -> CloseReason | None:
        if track.end_s <= start_s + _CLOSE_S:
            return "left"
        if track.missed >= self._rules.close_after:
            return "faded"
        touches = track.end_s >= edge_s - self._clip_s - _CLOSE_S
        if touches:
            track.still = 0
        return "ended" if track.still >= self._rules.close_after else None

    def _has_changed(self, track: _Track) -> bool:
        """Return whether its start or end has moved since it was reported."""
        start_moved = abs(track.start_s - track.reported[0]) >= self._change_s - _CLOSE_S
        end_moved = abs(track.end_s - track.reported[1]) >= self._change_s - _CLOSE_S
        return start_moved or end_moved


def _change(
    kind: Literal["opened", "changed", "closed"], track: _Track, reason: CloseReason | None = None
) -> Change:
    return Change(
        kind=kind,
        moment_id=track.moment_id,
        start_s=track.start_s,
        end_s=track.end_s,
        score=track.score,
        best_score=track.best_score,
        reason=reason,
    )


def _within(track: _Track, start_s: float, edge_s: float) -> tuple[float, float]:
    """Return the part of a track that the window shows."""
    return max(track.start_s, start_s), min(track.end_s, edge_s)


def _iou(a: Moment, b: Moment) -> float:
    common = min(a.end_s, b.end_s) - max(a.start_s, b.start_s)
    if common <= 0:
        return 0.0
    return common / (a.end_s - a.start_s + b.end_s - b.start_s - common)
