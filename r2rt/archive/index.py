"""Indexing: files become rows, a batch of videos is one commit, and any kill loses one batch."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from r2rt.archive.indices import update_indices
from r2rt.archive.piece import Piece
from r2rt.archive.scan import File, known_videos, scan
from r2rt.archive.tables import Tables
from r2rt.archive.writer import IndexOptions, IndexReport, Writer

if TYPE_CHECKING:
    from r2rt.grounding.grounder import Grounder
    from r2rt.progress import Update

__all__ = ["index"]


def index(
    tables: Tables,
    grounder: Grounder,
    sources: Sequence[str],
    options: IndexOptions,
    *,
    update: Update | None = None,
    failed: Callable[[str, str], None] = lambda _path, _reason: None,
) -> IndexReport:
    """Bring a library up to date with what sources name.

    Args:
        tables: the library.
        grounder: its model.
        sources: files, folders, globs, addresses.
        options: how.
        update: called with bytes of video done and their total.
        failed: called with the path of a video that cannot be indexed, and the reason.

    Raises:
        SourceNotFoundError: a folder or glob leads to no video.
        LibraryFullError: the quota is reached; what was indexed before is kept.
        OutputError: the library cannot be written.
    """
    began = time.perf_counter()
    known = known_videos(tables)
    found = scan(sources, known, retry=options.retry, follow=options.follow, keep=options.keep)
    writer = Writer(tables, known, options)
    try:
        progress = _Progress(found.work, update)

        def here(jobs: Iterator[tuple[File, str]]) -> Iterator[Piece]:
            for file, content in jobs:
                yield writer.make(grounder, file, content, functools.partial(progress, file))

        def on_ray(jobs: Iterator[tuple[File, str]]) -> Iterator[Piece]:
            from r2rt.archive.ray_workers import encode_on_ray

            assert options.ray is not None
            return encode_on_ray(
                options.ray,
                tables,
                jobs,
                keep=options.keep,
                sampling=options.sampling,
                tags=options.tags,
                speech=options.speech,
            )

        way = here if options.ray is None else on_ray
        _index_files(writer, found.work, way, progress, failed)
        writer.set_missing(found.missing)
        for row, file in found.words:
            writer.replace_words(row, file)
            if row["path"] in writer.report.failed:
                failed(row["path"], writer.report.failed[row["path"]])
    finally:
        writer.flush()
        writer.close()
    update_indices(tables, quota_bytes=options.quota_bytes)
    return dataclasses.replace(
        writer.report,
        unchanged=writer.report.unchanged + found.same,
        failed_before=found.failed,
        seconds=time.perf_counter() - began,
    )


def _index_files(
    writer: Writer,
    files: Sequence[File],
    pieces_of: Callable[[Iterator[tuple[File, str]]], Iterator[Piece]],
    done: Callable[[File, int, int], None],
    failed: Callable[[str, str], None],
) -> None:
    """Take the rows of files; those with the content of others come after these."""
    by_path = {file.path: file for file in files}

    def jobs() -> Iterator[tuple[File, str]]:
        for file in files:
            writer.check_quota()
            content = writer.wanted(file)
            if content is None:
                done(file, 1, 1)
            else:
                yield file, content

    for piece in pieces_of(jobs()):
        writer.take(piece)
        done(by_path[piece.row["path"]], 1, 1)
    for path in by_path:
        if path in writer.report.failed:
            failed(path, writer.report.failed[path])
    writer.flush()
    if writer.deferred:
        again, writer.deferred = writer.deferred, []
        _index_files(writer, again, pieces_of, done, failed)


class _Progress:
    """Bytes of video that are done; one file may be in progress."""

    def __init__(self, files: Sequence[File], update: Update | None) -> None:
        self._total = sum(max(file.size, 1) for file in files)
        self._update = update
        self._of_file: dict[str, int] = {}
        self._done = 0

    def __call__(self, file: File, clips: int, expected: int) -> None:
        """Note that so many clips of a file are done."""
        now = max(file.size, 1) * clips // max(expected, 1)
        self._done += now - self._of_file.get(file.path, 0)
        self._of_file[file.path] = now
        if self._update is not None:
            self._update(self._done, self._total)
