"""What needs a model: encoding videos, answering about them, searching the library."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from r2rt.service.encodings import Encodings
from r2rt.service.library import Library
from r2rt.service.models import Models
from r2rt.service.settings import Settings

if TYPE_CHECKING:
    from r2rt.archive.result import SearchResult
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.prediction import Prediction
    from r2rt.progress import Update
    from r2rt.selection.highlights import HighlightLength

__all__ = ["Computing", "NotEncodedError"]


class NotEncodedError(Exception):
    """The video is not encoded by this model, so it cannot be answered about at once."""


class Computing:
    """Computes in this process, by models that all callers share; threads may share it.

    Args:
        settings: the model, its device, the library, and how many videos are encoded together.
    """

    # How many calls of `answer` are useful at the same time: the engine uses all cores.
    answering = 1

    def __init__(self, settings: Settings) -> None:
        self.models = Models(
            settings.model, settings.device, settings.model_idle_s, precision=settings.precision
        )
        self.encodings = Encodings(settings.encoders)
        self._library = Library(settings.library, self.models)
        self._answers = False

    def check(self) -> None:
        """Answer a query about a made-up video, unless that worked before.

        Raises:
            R2rtError: there is no usable model.
        """
        if not self._answers:
            with self.models.use() as grounder:
                grounder.warm_up()
            self._answers = True

    def encode(self, path: Path, model: str | None, update: Update) -> tuple[int, float]:
        """Encode a video into the cache, and return its number of clips and its seconds.

        An update that raises ends the work.

        Raises:
            R2rtError: see `Encodings.encode`.
        """
        with self.models.use(model) as grounder:
            encoded = self.encodings.encode(grounder, path, update)
        return encoded.num_clips, encoded.duration_s

    def answer(self, path: Path, model: str | None, queries: Sequence[str]) -> list[Prediction]:
        """Return one prediction a query about an encoded video.

        Raises:
            NotEncodedError: the video is not encoded by the model.
            R2rtError: a query cannot be used, or the model cannot be loaded.
        """
        with self._encoded(path, model) as (grounder, encoded):
            return grounder.ground(encoded, list(queries))

    def highlights(
        self, path: Path, model: str | None, query: str | None, top: int, length: HighlightLength
    ) -> Prediction:
        """Return the highlights of an encoded video; see `find_highlights` and `answer`."""
        from r2rt.selection.highlights import find_highlights

        with self._encoded(path, model) as (grounder, encoded):
            return find_highlights(grounder, encoded, query, top=top, length_s=length)

    def summarize(
        self, path: Path, model: str | None, query: str | None, length: str
    ) -> Prediction:
        """Return the summary of an encoded video; see `r2rt.selection.summarize` and `answer`."""
        from r2rt.selection.summary import summarize

        with self._encoded(path, model) as (grounder, encoded):
            return summarize(grounder, encoded, query, length=length)

    def search(self, text: str, top: int, where: str | None) -> SearchResult:
        """Search the library.

        Raises:
            QueryError: the filter cannot be used.
            LibraryError: the library cannot be read.
        """
        return self._library.search(text, top, where)

    def index(self, path: Path, update: Update) -> str | None:
        """Add a video to the library; return why it cannot be indexed, None if it was.

        Raises:
            R2rtError: see `Archive.add`.
        """
        return self._library.add(path, update)

    def unload_idle(self) -> bool:
        """Unload models that were not used for a while, and return whether any was."""
        if not self.models.unload_idle():
            return False
        self.encodings.close()
        self._library.forget()
        return True

    def close(self) -> None:
        """Unload everything; call it when nobody computes."""
        self.encodings.close()
        self._library.forget()
        self.models.close()

    @contextlib.contextmanager
    def _encoded(self, path: Path, model: str | None) -> Iterator[tuple[Grounder, EncodedVideo]]:
        with self.models.use(model) as grounder:
            encoded = self.encodings.find(path, grounder.bundle.fingerprint)
            if encoded is None:
                raise NotEncodedError
            yield grounder, encoded
