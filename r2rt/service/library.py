"""The library that is served: a search over all of its videos."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2rt.files import as_text
from r2rt.service.models import Models
from r2rt.service.problems import ProblemError
from r2rt.service.videos import Videos

if TYPE_CHECKING:
    from r2rt.archive.library import Archive
    from r2rt.grounding.grounder import Grounder
    from r2rt.progress import Update

__all__ = ["Library"]


class Library:
    """A library, searched by the model that it was made with.

    Args:
        path: its folder or address; None where none is served.
        models: where its model is loaded.
        videos: where the videos of hits become known, so that they can be played.
    """

    def __init__(self, path: str | None, models: Models, videos: Videos) -> None:
        self._path = path
        self._models = models
        self._videos = videos
        self._lock = threading.Lock()
        self._open: tuple[Grounder, Archive] | None = None

    @property
    def is_served(self) -> bool:
        """Whether there is one."""
        return self._path is not None

    def search(self, text: str, *, top: int, where: str | None) -> dict[str, Any]:
        """Return what `GET /search` answers.

        Raises:
            ProblemError: no library is served.
            QueryError: the filter cannot be used.
            LibraryError: the library cannot be read.
        """
        with self._models.use(folder=self._model()) as grounder:
            found = self._archive(grounder).search(text, top=top, where=where)
        results = []
        for hit in found:
            video = self._videos.add_known(Path(hit.path).absolute())
            time_s = (hit.start_s + hit.end_s) / 2
            results.append(
                {
                    "video": video.id,
                    "name": video.name,
                    "start_s": hit.start_s,
                    "end_s": hit.end_s,
                    "score": hit.score,
                    "words": hit.words,
                    "date": hit.date,
                    "tags": list(hit.tags),
                    "duration_s": hit.duration_s,
                    "thumbnail": f"/api/v1/videos/{video.id}/frame?time_s={time_s:.3f}&height=180",
                }
            )
        return {
            "query": text,
            "present": found.present,
            "presence_score": found.presence_score,
            "videos": found.videos,
            "duration_s": found.duration_s,
            "results": results,
        }

    def add(self, path: Path, update: Update) -> dict[str, Any]:
        """Index a video, and return how it went.

        Raises:
            ProblemError: no library is served, or the video cannot be indexed.
        """
        reasons: list[str] = []

        def failed(_: str, reason: str) -> None:
            reasons.append(reason)

        with self._models.use(folder=self._model()) as grounder:
            self._archive(grounder).add([path], update=update, failed=failed)
        if reasons:
            raise ProblemError(422, "not-indexed", as_text(reasons[0]))
        return {"indexed": True}

    def forget(self) -> None:
        """Drop the encodings in memory, such as when models were unloaded."""
        with self._lock:
            self._open = None

    def _model(self) -> str | None:
        """Return the folder of the model that the library was made with; None for the default."""
        if self._path is None:
            raise ProblemError(
                409, "no-library", "no library is served; start with r2rt serve LIBRARY"
            )
        from r2rt.archive.tables import Tables, is_library, require_lance
        from r2rt.model.installed import resolve

        require_lance()
        if not is_library(self._path):
            return None
        return str(resolve(Tables.open(self._path).settings.model))

    def _archive(self, grounder: Grounder) -> Archive:
        from r2rt.archive.library import Archive

        assert self._path is not None
        with self._lock:
            if self._open is None or self._open[0] is not grounder:
                self._open = (grounder, Archive.open(self._path, model=grounder))
            return self._open[1]
