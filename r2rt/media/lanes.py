"""Spans that overlap, laid beside each other."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["lanes"]


def lanes(spans: Sequence[tuple[float, float]], least_s: float) -> list[int]:
    """Return a lane for each span, so that no two in one lane overlap; better ones come higher.

    Args:
        spans: start and end, the most important first.
        least_s: length at least that a span takes up, and distance at least between two.
    """
    taken: list[list[tuple[float, float]]] = []
    placed: list[int] = []
    for start_s, end_s in spans:
        span = (start_s, max(end_s, start_s + least_s) + least_s)
        lane = next(
            (
                place
                for place, others in enumerate(taken)
                if all(span[1] <= other[0] or span[0] >= other[1] for other in others)
            ),
            len(taken),
        )
        if lane == len(taken):
            taken.append([])
        taken[lane].append(span)
        placed.append(lane)
    return placed
