"""Queries that are not in the video: `--anyway`, and the exit code if nothing was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from r2rt.errors import NotInVideoError

if TYPE_CHECKING:
    from r2rt.grounding.prediction import Prediction

__all__ = ["Verdict", "presence_option"]

F = TypeVar("F", bound=Callable[..., Any])


def presence_option(command: F) -> F:
    """Add `--anyway`."""
    return click.option(
        "--anyway",
        "--no-presence",
        "anyway",
        is_flag=True,
        help="Report moments even of queries that the model says are not in the video.",
    )(command)


class Verdict:
    """Whether anything was found, over all queries and videos.

    Args:
        anyway: report moments whether queries are present or not.
        moments: whether the answers have moments at all.
    """

    def __init__(self, *, anyway: bool, moments: bool) -> None:
        self._anyway = anyway
        self._moments = moments
        self._found = False
        self._absent: dict[str, None] = {}
        self._empty: dict[str, None] = {}

    def take(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Note what was found, and return the predictions as they are reported.

        Predictions for absent queries are without moments, unless `anyway` is set.
        """
        reported = []
        for item in predictions:
            if item.present is False and not self._anyway:
                self._absent[item.query] = None
                reported.append(dataclasses.replace(item, moments=()))
                continue
            reported.append(item)
            if item.moments or not self._moments:
                self._found = True
            else:
                self._empty[item.query] = None
        return reported

    def conclude(self) -> None:
        """Raise `NotInVideoError` if nothing was found for any query in any video."""
        if self._found or not (self._absent or self._empty):
            return
        reasons = []
        if self._absent:
            reasons.append(
                f"not in this video: {_listed(self._absent)} (--anyway reports the best moments)"
            )
        if self._empty:
            reasons.append(f"no moments: {_listed(self._empty)}")
        raise NotInVideoError("; ".join(reasons))


def _listed(queries: dict[str, None]) -> str:
    names = [repr(" ".join(query.split())) for query in queries]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
