"""`Archive`: a library of videos, as Python uses it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from r2rt.archive.index import index
from r2rt.archive.queries import Like, vectors_of
from r2rt.archive.result import SearchResult
from r2rt.archive.search import Request, search
from r2rt.archive.settings import Settings
from r2rt.archive.tables import Tables
from r2rt.archive.writer import IndexOptions, IndexReport
from r2rt.errors import BundleSchemaError, LibraryError, QueryError
from r2rt.model.installed import name_of
from r2rt.video.remote import is_remote

if TYPE_CHECKING:
    from r2rt.archive.candidates import FirstStage
    from r2rt.archive.catalog import Catalog
    from r2rt.archive.piece import Keep
    from r2rt.engines import Device
    from r2rt.grounding.grounder import Grounder
    from r2rt.progress import Update
    from r2rt.video import Sampling

__all__ = ["Archive"]


class Archive:
    """A library of videos: add files, search all of them.

    Threads may share it, and so may processes share the library. Example:

        with Archive.open("library", model="qvhighlights") as archive:
            archive.add(["videos/"])
            for hit in archive.search("a dog catches a frisbee", top=5):
                print(hit.path, hit.start_s, hit.end_s, hit.score)
    """

    def __init__(
        self,
        path: str,
        *,
        model: str | Grounder | None,
        device: Device = "auto",
        tables: Tables | None = None,
    ) -> None:
        self.path = path
        self._model, self._device = model, device
        self._tables = Tables.find(path) if tables is None else tables
        self._grounder: Grounder | None = None
        self._kept: tuple[Catalog, FirstStage] | None = None
        self._lock = threading.RLock()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str] | Grounder | None = None,
        device: Device = "auto",
    ) -> Self:
        """Open a library; `add` makes one where there is none yet.

        Args:
            path: the library's folder, or an address such as s3://bucket/library.
            model: name or folder of a model, or one that is loaded; None takes the one that the
                library was made with. It is loaded when it is first needed.
            device: what the model runs on.

        Raises:
            MissingExtraError: Lance is not installed.
            LibraryError: the library cannot be read.
        """
        given = os.fspath(model) if isinstance(model, os.PathLike) else model
        return cls(os.fspath(path), model=given, device=device)

    @property
    def tables(self) -> Tables:
        """The library's tables.

        Raises:
            LibraryError: there is no library yet.
        """
        with self._lock:
            if self._tables is None:
                self._tables = Tables.open(self.path)
            return self._tables

    @property
    def grounder(self) -> Grounder:
        """The model, loaded when it is first needed.

        Raises:
            ModelMismatchError: it is not the one that the library was made with.
            ModelNotFoundError, BackendUnavailableError: see `Grounder.load`.
        """
        with self._lock:
            if self._grounder is None:
                self._grounder = self._load()
                if self._tables is not None:
                    self._tables.settings.check_model(self._grounder.bundle, self.path)
            return self._grounder

    def add(
        self,
        sources: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
        *,
        tags: Sequence[str] = (),
        keep: Keep = "tokens",
        sampling: Sampling = "nearest",
        retry: bool = False,
        follow: bool = False,
        quota_bytes: int | None = None,
        speech: str | None = None,
        ray: str | None = None,
        workers: int = 2,
        update: Update | None = None,
        failed: Callable[[str, str], None] = lambda _path, _reason: None,
    ) -> IndexReport:
        """Index new and changed files, and notice moved and removed ones.

        Args:
            sources: files, folders, globs; see `r2rt.find_videos`.
            tags: given to the videos that are read.
            keep: `tokens` for both stages; `vectors` takes a small part of the space (a twentieth
                for ViT-B/32) and encodes windows again when they are searched.
            sampling: how frames are chosen, see `Grounder.encode`.
            retry: read videos that failed once more.
            follow: a folder may have no video yet.
            quota_bytes: the most that the library may take on disk.
            speech: name or folder of faster-whisper's weights (extra `[speech]`): videos without
                subtitles are transcribed.
            ray: encode by workers of Ray, on the cluster of that address or `local`, this machine.
            workers: how many.
            update: called with bytes of video done and their total.
            failed: called with the path of a video that cannot be indexed, and the reason.

        Raises:
            MissingExtraError, ModelNotFoundError: speech cannot be transcribed.
            QueryError: a quota is given for a library at an address.
            SourceNotFoundError: a folder or glob leads to no video.
            LibraryFullError: the quota is reached; what was indexed before is kept.
            OutputError: the library cannot be written.
            BundleSchemaError: the model gives no embeddings.
            BackendUnavailableError: Ray did not start, or ended early.
        """
        if quota_bytes is not None and is_remote(self.path):
            raise QueryError(
                f"{self.path}: what a library at an address takes is not known here; leave "
                "--quota out, and limit it where it lies"
            )
        if speech is not None:
            from r2rt.archive.speech import load_speech_model

            load_speech_model(speech)  # before any video is read
        several = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
        grounder = self.grounder
        cluster = None
        if ray is not None:
            from r2rt.archive.ray_workers import RayOptions

            # The very form that is loaded here, by its name: another machine may have it elsewhere.
            model = name_of(grounder.bundle.path)
            cluster = RayOptions(address=ray, workers=workers, model=model, device=self._device)
        options = IndexOptions(
            keep=keep,
            sampling=sampling,
            tags=tuple(tags),
            retry=retry,
            follow=follow,
            quota_bytes=quota_bytes,
            speech=speech,
            ray=cluster,
        )
        with self._lock:
            if self._tables is None:
                self._tables = Tables.create(self.path, self._new_settings(grounder))
                self._tables.settings.check_model(grounder.bundle, self.path)
        return index(
            self._tables,
            grounder,
            [os.fspath(x) for x in several],
            options,
            update=update,
            failed=failed,
        )

    def search(
        self,
        text: str | None = None,
        *,
        image: Any = (),
        like: str | Like | Sequence[str | Like] = (),
        where: str | None = None,
        top: int = 10,
        windows: int = 20,
        words: bool = True,
    ) -> SearchResult:
        """Find moments in all videos.

        Args:
            text: a sentence.
            image: an image file, pixels (H, W, 3) uint8 RGB, or a list of these.
            like: a moment of a video, `video.mp4@1:23`, or a list of these.
            where: SQL over the columns of the videos, such as "date >= '2024' and path like '%x%'".
            top: how many hits are wanted.
            windows: how many windows the second stage looks at; more find more, and take longer.
            words: search subtitles, too.

        Raises:
            LibraryError: there is no library.
            QueryError: nothing is searched, or the filter cannot be used.
        """
        if top < 1 or windows < 1:
            raise QueryError(f"top {top}, windows {windows}; expected 1 or more")
        tables, grounder = self.tables, self.grounder
        began = time.perf_counter()
        images = list(image) if isinstance(image, list | tuple) else [image]
        moments = [like] if isinstance(like, str | Like) else list(like)
        vectors, names = vectors_of(grounder, text, images, moments)
        request = Request(
            text=text,
            vectors=vectors,
            images=names,
            where=where,
            top=top,
            windows=windows,
            words=words,
        )
        query_s = time.perf_counter() - began
        catalog, stage = self._readers()
        return search(tables, catalog, stage, grounder, request, query_s=query_s)

    def videos(self, where: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the row of every file, whatever its state.

        Args:
            where: SQL over their columns.

        Raises:
            LibraryError: there is no library.
            QueryError: the filter cannot be used.
        """
        names = self.tables.videos.latest().schema.names
        try:
            # Without parentheses, Lance ignores what follows a condition that ends.
            condition = None if where is None else f"({where})"
            yield from self.tables.videos.rows(names, condition).to_pylist()
        except ValueError as error:
            raise QueryError(f"where {where!r}: {str(error)[:200]}") from error

    def close(self) -> None:
        """Free the model, unless it was given loaded."""
        with self._lock:
            if self._grounder is not None and isinstance(self._model, str | None):
                self._grounder.close()
            self._grounder = None

    def __enter__(self) -> Self:
        """Return the archive, which is closed at the end of the `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the archive."""
        self.close()

    def _load(self) -> Grounder:
        if self._model is not None and not isinstance(self._model, str):
            return self._model
        from r2rt.grounding.grounder import Grounder

        name = self._model
        if name is None:
            if self._tables is None:
                raise LibraryError(f"{self.path}: no library yet; name a model to make one")
            # The very form that it was indexed with.
            return Grounder.load(self._tables.settings.model, device=self._device, precision=None)
        return Grounder.load(name, device=self._device)

    def _new_settings(self, grounder: Grounder) -> Settings:
        width = getattr(grounder.bundle.dims, "embedding_width", None)
        if width is None:
            raise BundleSchemaError(
                f"{grounder.bundle.manifest.name} gives no embeddings, since it was exported by an "
                "older r2rt; pull or export the model again"
            )
        # The very form that is loaded, which need not be the one that was named.
        return Settings.of(grounder.bundle, model=name_of(grounder.bundle.path), width=width)

    def _readers(self) -> tuple[Catalog, FirstStage]:
        from r2rt.archive.candidates import FirstStage
        from r2rt.archive.catalog import Catalog

        with self._lock:
            if self._kept is None:
                self._kept = Catalog(self.tables), FirstStage(self.tables)
            return self._kept
