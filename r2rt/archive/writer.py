"""What becomes of a file: its rows are made, or taken over, and committed with those of others."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from r2rt.archive.indices import remove_old_versions, update_indices
from r2rt.archive.piece import (
    Keep,
    Piece,
    copied_piece,
    failed_piece,
    make_piece,
    new_id,
    words_of,
    words_table,
)
from r2rt.archive.scan import FAILED, MISSING, READY, File, known_videos
from r2rt.archive.tables import Row, Tables, quoted, write_lock
from r2rt.errors import LibraryFullError, OutputError, R2rtError
from r2rt.files import as_text
from r2rt.grounding.many import attempt, kind_of
from r2rt.video.remote import is_remote

if TYPE_CHECKING:
    from r2rt.archive.ray_workers import RayOptions
    from r2rt.grounding.grounder import Grounder
    from r2rt.video import Sampling

__all__ = ["IndexOptions", "IndexReport", "Writer"]

_log = logging.getLogger(__name__)

# What is lost at most when the process is killed; a commit takes some 50 ms.
_BATCH_CLIPS, _BATCH_S = 4096, 10.0
_BATCH_VIDEOS = 256
# Commits after which small files are joined and indices extended, in a run that goes on.
_COMMITS_A_CLEANING = 64


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """How videos are indexed.

    Attributes:
        keep: what to keep for the second stage.
        sampling: how frames are chosen, see `Grounder.encode`; `nearest` is several times faster.
        tags: words for `--where`, given to every video that is read.
        retry: read videos that failed once more although they have not changed.
        follow: a folder may have no video yet.
        quota_bytes: the most that the library may take on disk.
        speech: name or folder of faster-whisper's weights, which transcribe videos without
            subtitles; None transcribes none.
        ray: encode by workers of Ray; None encodes in this process.
    """

    keep: Keep = "tokens"
    sampling: Sampling = "nearest"
    tags: tuple[str, ...] = ()
    retry: bool = False
    follow: bool = False
    quota_bytes: int | None = None
    speech: str | None = None
    ray: RayOptions | None = None


@dataclass(frozen=True, kw_only=True)
class IndexReport:
    """What an indexing came to, in files.

    Attributes:
        added: read and new.
        changed: read again since they changed.
        moved: found under another path.
        copied: the same as another one.
        removed: gone.
        unchanged: as they were.
        failed: not readable, with the reason, by path; those that failed before count too, without.
        busy: being indexed by another process.
        clips: encoded.
        seconds: of wall clock.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    copied: int = 0
    removed: int = 0
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    failed_before: int = 0
    busy: int = 0
    clips: int = 0
    seconds: float = 0.0


class Writer:
    """Collects the rows of videos and commits them together.

    Args:
        tables: the library.
        known: what it knows, by path; brought up to date as rows are committed.
        options: how videos are indexed.
    """

    def __init__(self, tables: Tables, known: dict[str, Row], options: IndexOptions) -> None:
        self._tables = tables
        self._known = known
        self._options = options
        self._pieces: list[Piece] = []
        self._gone: list[str] = []
        self._by_content: dict[str, list[str]] = {}
        for path, row in known.items():
            if row["entry"]:
                self._by_content.setdefault(row["content"], []).append(path)
        # Claims are held until the rows are committed: nobody encodes the same video meanwhile.
        self._claims: dict[str, contextlib.ExitStack] = {}
        self.deferred: list[File] = []
        self._copied: dict[str, File] = {}
        self._last_s = time.monotonic()
        self._commits = 0
        self.report = IndexReport()

    def check_quota(self) -> None:
        """Raise `LibraryFullError`, after a commit, if the library takes as much as it may."""
        if self._options.quota_bytes is None:
            return
        self.flush()
        try:
            self._tables.check_quota(self._options.quota_bytes)
        except LibraryFullError:
            remove_old_versions(self._tables)
            self._tables.check_quota(self._options.quota_bytes)

    def wanted(self, file: File) -> str | None:
        """Return the key of a file's content if it must be encoded, else deal with it.

        Its content may be in the library, be in work, here or in another process, or not readable.
        A file with the same content as one in work here is in `deferred`.

        Raises:
            OutputError: the library cannot be written.
        """
        if as_text(file.path) != file.path:
            reason = f"{file.path}: the library keeps names in UTF-8, and this is none; rename it"
            self.report.failed[file.path] = reason
            return None
        try:
            content = file.content()
        except OutputError:
            raise
        except R2rtError as error:
            # Nothing is there. If a folder is later, such a row would stay beside its videos'.
            if file.size < 0:
                self.report.failed[file.path] = str(error)
            else:
                self.take(failed_piece(file, None, error, tags=self._options.tags))
            return None
        if self._use_known(file, content):
            return None
        if content in self._claims:
            self.deferred.append(file)
            return None
        claim = contextlib.ExitStack()
        if not claim.enter_context(self._tables.claim(content)):
            self._count(busy=1)
            return None
        self._claims[content] = claim
        return None if self._is_made_meanwhile(file, content) else content

    def make(
        self, grounder: Grounder, file: File, content: str, progress: Callable[[int, int], None]
    ) -> Piece:
        """Return the rows of a file that is wanted, encoded here."""
        options = self._options
        made = attempt(
            file.path,
            lambda _: make_piece(
                grounder,
                self._tables.settings,
                file,
                content,
                keep=options.keep,
                sampling=options.sampling,
                tags=options.tags,
                speech=options.speech,
                progress=progress,
            ),
        )
        if isinstance(made, R2rtError):
            return failed_piece(file, content, made, tags=options.tags)
        return made

    def take(self, piece: Piece) -> None:
        """Take the rows of one video, which are committed with others."""
        self._pieces.append(piece)
        path = piece.row["path"]
        before = self._known.get(path)
        changed = before is not None and before["state"] != FAILED
        if piece.row["state"] == FAILED:
            self.report.failed[path] = piece.row["error"]
        elif piece.num_clips:
            self._count(added=not changed, changed=changed, clips=piece.num_clips)
        self._remember(piece.row)
        self.flush(only_if_due=True)

    def set_missing(self, paths: Sequence[str]) -> None:
        """Mark files as gone: searches leave them out, and `compact` removes what they have."""
        for path in paths:
            # A path that is not known any more was found elsewhere meanwhile.
            if path not in self._known or self._known[path]["state"] == MISSING:
                continue
            if (whole := self._whole(path)) is not None:
                self._pieces.append(Piece(row={**whole, "state": MISSING}))
                self._count(removed=1)
                self.flush(only_if_due=True)

    def replace_words(self, row: Row, file: File) -> None:
        """Read the subtitles of a video again, which have changed.

        Where they cannot be read, the video keeps those that it has.
        """
        path = row["path"]
        whole = self._whole(path)
        if whole is None:
            return
        lines = attempt(path, lambda _: words_of(path, self._options.speech))
        if isinstance(lines, R2rtError):
            self.report.failed[path] = str(lines)
            return
        new = {
            **whole,
            "words": new_id() if lines else None,
            "words_key": file.words_key,
        }
        self._pieces.append(Piece(row=new, lines=lines))
        self._count(unchanged=1)
        self.flush(only_if_due=True)

    def flush(self, *, only_if_due: bool = False) -> None:
        """Commit what was taken: data first, then the rows of `videos` that make it exist."""
        if not self._pieces or (only_if_due and not self._is_due()):
            return
        import pyarrow as pa

        tables = self._tables
        with write_lock(tables.root):
            # Taken off first: a commit that is interrupted half-way must not be repeated.
            pieces, self._pieces = self._without_lost(self._pieces), []
            gone, self._gone = self._gone, []
            for table, parts in (
                (tables.clips, [piece.clips for piece in pieces if piece.clips is not None]),
                (tables.tokens, [piece.tokens for piece in pieces if piece.tokens is not None]),
            ):
                if parts:
                    table.append(pa.concat_tables(parts))
            for table, described in (
                (tables.clips, [text for piece in pieces for text in piece.clip_fragments]),
                (tables.tokens, [text for piece in pieces for text in piece.token_fragments]),
            ):
                if described:
                    table.append_fragments(described)
            if lines := words_table(pieces):
                schema = tables.subtitles.latest().schema
                tables.subtitles.append(pa.Table.from_pylist(lines, schema=schema))
            if rows := list({piece.row["path"]: piece.row for piece in pieces}.values()):
                schema = tables.videos.latest().schema.remove_metadata()
                tables.videos.upsert(pa.Table.from_pylist(rows, schema=schema), "path")
            if gone:
                tables.videos.delete(f"path in {quoted(gone)}")
        _log.info("committed %d videos", len(pieces))
        for piece in pieces:
            self._unclaim(piece.row["content"])
        self._commits += 1
        if self._commits % _COMMITS_A_CLEANING == 0:
            update_indices(tables, quota_bytes=self._options.quota_bytes)
        self._last_s = time.monotonic()

    def _without_lost(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Leave out rows whose clips another process may have removed; copies are `deferred`.

        Clips stay as long as a row of `videos` names their entry, and nobody can commit now.
        """
        made = {piece.row["entry"] for piece in pieces if piece.num_clips}
        entries = (piece.row.get("entry") for piece in pieces)
        taken = {entry for entry in entries if entry is not None} - made
        if not taken:
            return list(pieces)
        where = f"entry in {quoted(sorted(taken))}"
        made |= {None, *self._tables.videos.rows(["entry"], where)["entry"].to_pylist()}
        for lost in (piece.row for piece in pieces if piece.row.get("entry") not in made):
            self._known.pop(lost["path"], None)
            self._unclaim(lost["content"])
            if lost["path"] in self._copied:
                self.deferred.append(self._copied.pop(lost["path"]))
        return [piece for piece in pieces if piece.row.get("entry") in made]

    def _unclaim(self, content: str | None) -> None:
        if content in self._claims:
            self._claims.pop(content).close()

    def close(self) -> None:
        """Give up what was claimed."""
        while self._claims:
            self._claims.popitem()[1].close()

    def _remember(self, row: Row) -> None:
        self._known[row["path"]] = row
        if row.get("entry"):
            paths = self._by_content.setdefault(row["content"], [])
            if row["path"] not in paths:
                paths.append(row["path"])

    def _is_due(self) -> bool:
        clips = sum(piece.num_clips for piece in self._pieces)
        return (
            clips >= _BATCH_CLIPS
            or len(self._pieces) >= _BATCH_VIDEOS
            or time.monotonic() - self._last_s >= _BATCH_S
        )

    def _use_known(self, file: File, content: str) -> bool:
        """Take over the vectors of the same content where the library has it; say whether so."""
        rows = [self._known.get(path) for path in self._by_content.get(content, ())]
        same = [row for row in rows if row is not None and self._has(row, content)]
        same.sort(key=lambda row: row["path"] != file.path)  # its own row is the first
        for row in same:
            whole = self._whole(row["path"])
            if whole is not None and self._has(whole, content):
                break
        else:
            return False
        piece = attempt(file.path, lambda _: copied_piece(file, whole, tags=self._options.tags))
        if isinstance(piece, R2rtError):  # of its words: what the library has of it stays
            self.report.failed[file.path] = str(piece)
            return True
        gone = [x["path"] for x in same if x["path"] != file.path and _is_gone(x["path"])]
        self._pieces.append(piece)
        self._copied[file.path] = file
        self._remember(piece.row)
        for path in gone[:1]:
            self._gone.append(path)
            del self._known[path]
        if row["path"] == file.path:
            self._count(unchanged=1)
        else:
            self._count(moved=bool(gone), copied=not gone)
        self.flush(only_if_due=True)
        return True

    def _has(self, row: Row, content: str) -> bool:
        """Return whether a row keeps a content as asked; a row of a failed video keeps nothing."""
        keeps = ("tokens",) if self._options.keep == "tokens" else ("tokens", "vectors")
        return bool(row.get("entry")) and row["content"] == content and row["keep"] in keeps

    def _is_made_meanwhile(self, file: File, content: str) -> bool:
        """Look for the content once more, now that no other process can be at it."""
        if any(piece.row["content"] == content for piece in self._pieces):
            return False
        where = f"content in {quoted([content])} and state = '{READY}'"
        if not self._tables.videos.rows(["path"], where).num_rows:
            return False
        for row in known_videos(self._tables).values():
            self._remember(row)
        return self._use_known(file, content)

    def _whole(self, path: str) -> Row | None:
        """Return all columns of a file's row; None if another process has removed it."""
        for piece in reversed(self._pieces):
            if piece.row["path"] == path:
                return piece.row
        names = self._tables.videos.latest().schema.names
        rows: list[Row] = self._tables.videos.rows(names, f"path in {quoted([path])}").to_pylist()
        return rows[0] if rows else None

    def _count(self, **more: int) -> None:
        now = {name: getattr(self.report, name) + int(count) for name, count in more.items()}
        self.report = dataclasses.replace(self.report, **now)


def _is_gone(path: str) -> bool:
    return not is_remote(path) and kind_of(path) is None
