"""What `highlights` and `summarize` share: moments chosen by the saliency for one query or none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from r2rt.cli.request import Question, Request, request_options
from r2rt.cli.session import note
from r2rt.errors import QueryError

if TYPE_CHECKING:
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.prediction import Prediction

__all__ = ["Choose", "Selection", "selection_options"]

F = TypeVar("F", bound=Callable[..., Any])
Choose = Callable[["Grounder", "EncodedVideo", "Prediction"], "Prediction"]


class Selection:
    """A request about one query or none, whose moments are chosen by saliency."""

    def __init__(self, request: Request, query: str | None) -> None:
        arguments, texts = request.sources.split(queries_given=query is not None)
        texts += [] if query is None else [query]
        if len(texts) > 1:
            raise QueryError(f"{len(texts)} queries; give one or none, or name videos by --video")
        self._request = request
        self._arguments = arguments
        self._query = texts[0] if texts else None

    def run(self, choose: Choose) -> None:
        """Answer about every video with the moments that `choose` makes of its saliency.

        Raises:
            NotInVideoError, R2rtError: see `Request.run`.
        """
        request, query = self._request, self._query
        fallbacks: set[str] = set()

        def answer(grounder: Grounder, video: EncodedVideo) -> list[Prediction]:
            from r2rt.selection.saliency import saliency_of

            prediction, fallback = saliency_of(
                grounder, video, query, window=request.window, overlap=request.overlap
            )
            if fallback is not None and fallback.reason not in fallbacks:
                fallbacks.add(fallback.reason)
                note(f"no query, so {fallback.reason}", quiet=request.quiet)
            return [choose(grounder, video, prediction)]

        videos = request.sources.find(self._arguments, quiet=request.quiet)
        sentences = () if query is None else (query,)
        request.run(
            videos, Question(sentences=sentences, qids=(1,), answer=answer, has_moments=True)
        )


def selection_options(command: F) -> F:
    """Add all options but the command's own; the command gets them as one `selection`."""

    @functools.wraps(command)
    def with_selection(*, request: Request, query: str | None, **others: Any) -> Any:
        return command(selection=Selection(request, query), **others)

    option = click.option("--query", "-q", help="The query, if several videos are given.")
    return option(request_options(with_selection))  # type: ignore[return-value]
