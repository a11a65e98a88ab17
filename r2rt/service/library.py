"""The library that is served: a search over all of its videos."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from r2rt.files import as_text
from r2rt.service.models import Models
from r2rt.service.problems import ProblemError

if TYPE_CHECKING:
    from r2rt.archive.library import Archive
    from r2rt.archive.result import SearchResult
    from r2rt.archive.tables import Tables
    from r2rt.grounding.grounder import Grounder
    from r2rt.progress import Update

__all__ = ["Library"]


class Library:
    """A library, searched by the model that it was made with.

    Args:
        path: its folder or address; None where none is served.
        models: where its model is loaded.
    """

    def __init__(self, path: str | None, models: Models) -> None:
        self._path = path
        self._models = models
        self._lock = threading.Lock()
        self._made_with: str | None = None  # the folder of its model, once it is known
        self._tables: Tables | None = None
        self._open: tuple[Grounder, Archive] | None = None

    def search(self, text: str, top: int, where: str | None) -> SearchResult:
        """Return the best moments of all videos; see `Archive.search`.

        Raises:
            ProblemError: no library is served.
            R2rtError: the filter cannot be used, or the library cannot be read.
        """
        with self._models.use(exactly=self._model()) as grounder:
            return self._archive(grounder).search(text, top=top, where=where)

    def add(self, path: Path, update: Update) -> str | None:
        """Index a video; return why it cannot be indexed, None if it was.

        Raises:
            ProblemError: no library is served.
            R2rtError: see `Archive.add`.
        """
        reasons: list[str] = []

        def failed(_: str, reason: str) -> None:
            reasons.append(as_text(reason))

        with self._models.use(exactly=self._model()) as grounder:
            self._archive(grounder).add([path], update=update, failed=failed)
        return reasons[0] if reasons else None

    def forget(self) -> None:
        """Drop the encodings in memory, such as when models were unloaded."""
        with self._lock:
            self._tables = self._open = None

    def _model(self) -> str | None:
        """Return the folder of the form that the library was made with; None if there is none."""
        if self._path is None:
            raise ProblemError(
                409, "no-library", "no library is served; start with r2rt serve LIBRARY"
            )
        from r2rt.archive.tables import Tables
        from r2rt.model.installed import resolve

        # Opened once: at an address that takes a while.
        if self._made_with is None:
            self._tables = Tables.find(self._path)
            if self._tables is not None:
                self._made_with = str(resolve(self._tables.settings.model))
        return self._made_with

    def _archive(self, grounder: Grounder) -> Archive:
        from r2rt.archive.library import Archive

        assert self._path is not None
        with self._lock:
            if self._open is None or self._open[0] is not grounder:
                self._open = (grounder, Archive(self._path, model=grounder, tables=self._tables))
            return self._open[1]
