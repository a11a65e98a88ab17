"""What commands do with the honest no: `--anyway`, and the exit code where nothing was found."""

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
        help="Tell the best moments even of what the model says is not in the video.",
    )(command)


class Verdict:
    """Whether anything was found, over all queries and videos.

    Args:
        anyway: do not ask whether queries are present.
        moments: whether the model tells moments at all.
    """

    def __init__(self, *, anyway: bool, moments: bool) -> None:
        self._anyway = anyway
        self._moments = moments
        self._found = False
        self._absent: dict[str, None] = {}
        self._empty: dict[str, None] = {}

    def take(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Note what was found, and return the predictions without moments that are not to be told.

        These are those of queries that are not present, unless they are to be told anyway.
        """
        told = []
        for item in predictions:
            if item.present is False and not self._anyway:
                self._absent[item.query] = None
                told.append(dataclasses.replace(item, moments=()))
                continue
            told.append(item)
            if item.moments or not self._moments:
                self._found = True
            else:
                self._empty[item.query] = None
        return told

    def conclude(self) -> None:
        """Raise `NotInVideoError` if something was asked and nothing was found."""
        if self._found or not (self._absent or self._empty):
            return
        reasons = []
        if self._absent:
            reasons.append(f"not in this video: {_listed(self._absent)} (--anyway tells the best)")
        if self._empty:
            reasons.append(f"no moment to tell: {_listed(self._empty)}")
        raise NotInVideoError("; ".join(reasons))


def _listed(queries: dict[str, None]) -> str:
    names = [repr(" ".join(query.split())) for query in queries]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
