"""The videos that a service knows, and what their files are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from r2rt.errors import SourceNotFoundError
from r2rt.files import as_text
from r2rt.service.database import Database
from r2rt.service.names import plain_name, stored_name
from r2rt.service.problems import ProblemError
from r2rt.user_folders import user_path
from r2rt.video.remote import RemoteVideo, VideoPath, file_name, is_remote

__all__ = ["Origin", "State", "Video", "Videos"]

State = Literal["new", "encoding", "ready", "failed"]
Origin = Literal["path", "upload", "url", "library"]

_VERSION = ("size_bytes", "modified_ns")


@dataclass(frozen=True, kw_only=True)
class Video:
    """A video.

    Attributes:
        id: what it is asked for by.
        name: its file's name, for people.
        path: its file; one that is fetched is not there before.
        origin: how it came.
        url: where it is fetched from, if it is: as a client gave it, or as the library has it.
        state: `ready` once it is encoded by the default model.
        error: why it failed.
        facts: what its file is, see `file_facts`; empty before it was looked at.
        added_at: seconds since 1970.
    """

    id: str
    name: str
    path: Path
    origin: Origin
    url: str | None
    state: State
    error: str | None
    facts: dict[str, Any]
    added_at: float

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is a video of the library at an address, and not fetched."""
        return self.origin == "library" and self.url is not None and not self.path.is_file()

    @property
    def version(self) -> str | None:
        """A name of what its file holds, which another file does not have; None if it is absent."""
        try:
            status = _version(self.path)
        except OSError:
            return None
        return hashlib.sha256(repr(status).encode()).hexdigest()[:16]

    def as_dict(self, job: str | None = None) -> dict[str, Any]:
        """Return what the interface says of it; its place on the disk is not among that.

        Args:
            job: the job that encodes it, if one does.
        """
        names = ("duration_s", "width", "height", "frame_rate")
        return {
            "id": self.id,
            "name": self.name,
            "origin": self.origin,
            "state": self.state,
            "error": self.error,
            "added_at": self.added_at,
            "job": job,
            "version": self.version,
        } | {name: self.facts.get(name) for name in names}


class Videos:
    """The table of videos.

    Args:
        database: where it is.
        folder: where uploaded and fetched files go, each in a folder of its own; their paths are
            kept relative to it, so that it can be moved.
        roots: the folders from which videos may be added by path, resolved.
    """

    def __init__(self, database: Database, folder: Path, roots: Sequence[Path]) -> None:
        self._database = database
        self.folder = folder.resolve()
        self.roots = tuple(roots)

    def all(self) -> list[Video]:
        """Return every video, the newest first."""
        rows = self._database.rows("SELECT * FROM videos ORDER BY added_at DESC, id")
        return [self._video(row) for row in rows]

    def get(self, id_: str) -> Video:
        """Return a video.

        Raises:
            ProblemError: there is none of that id.
        """
        row = self._database.row("SELECT * FROM videos WHERE id = ?", (id_,))
        if row is None:
            raise ProblemError(
                404, "no-such-video", "no video has this id; GET /api/v1/videos lists all"
            )
        return self._video(row)

    def allowed(self, text: str) -> Path:
        """Return the real path of a file that may be added.

        Raises:
            ProblemError: it lies in none of the roots; one outside is answered as one absent.
        """
        try:
            path = user_path(text).resolve(strict=True)
            inside = any(path.is_relative_to(root) for root in self.roots)
        except (OSError, ValueError, RuntimeError):
            inside = False
        if not inside or not path.is_file():
            roots = ", ".join(as_text(root) for root in self.roots) or "none, see --root"
            raise ProblemError(
                403,
                "path-not-allowed",
                f"no such file in a folder that videos may be added from (these are: {roots})",
            )
        return path

    def add_path(self, path: Path, *, name: str | None = None, origin: Origin = "path") -> Video:
        """Add a file, which is looked at first; one that is known is returned.

        Raises:
            R2rtError: it is no video that can be read.
        """
        video = self._at(path)
        if video is not None:
            return self.known(video.id)
        return self._insert(name or as_text(path.name), path, origin, facts=file_facts(path))

    def add_known(self, source: str) -> Video:
        """Add a video of the library, which is looked at when more than its name is needed.

        Args:
            source: its path, or its address. It must be the library's own: what opens an address
                of the library may also reach private networks and local files.
        """
        if is_remote(source):
            name = plain_name(file_name(source))
            folder = hashlib.sha256(source.encode(errors="surrogatepass")).hexdigest()[:16]
            path, url = self.folder / folder / stored_name(name), source
        else:
            path, url = Path(source).absolute(), None
            name = as_text(path.name)
        return self._at(path) or self._insert(name, path, "library", url=url)

    def add_url(self, url: str, name: str) -> Video:
        """Add a video whose file is fetched later; see `known`."""
        path = self.folder / secrets.token_hex(8) / stored_name(name)
        return self._insert(name, path, "url", url=url)

    def source(self, id_: str) -> VideoPath:
        """Return where the frames of a video are read: its file, see `there`, or elsewhere.

        Raises:
            ProblemError, R2rtError: see `there`.
        """
        video = self.get(id_)
        if video.is_elsewhere:
            assert video.url is not None
            return RemoteVideo(video.url)
        return self.there(id_).path

    def there(self, id_: str) -> Video:
        """Return a video whose file is there and was looked at.

        Raises:
            ProblemError: there is no such video, or its file is not there.
            R2rtError: it is no video that can be read.
        """
        video = self.get(id_)
        if not video.path.is_file():
            _check_fetched(video)
            raise ProblemError(410, "file-gone", f"{video.name}: its file is not there any more")
        return self.known(id_)

    def known(self, id_: str) -> Video:
        """Return a video whose file was looked at; it is now if it was not, or has changed.

        Nothing else may open a file before: it may be a playlist, which names other files.

        Raises:
            ProblemError: there is no such video, or it is not fetched.
            R2rtError: it is no video that can be read.
        """
        video = self.get(id_)
        if not video.facts:
            _check_fetched(video)
            return self._looked_at(video)
        try:
            unchanged = _version(video.path) == {name: video.facts.get(name) for name in _VERSION}
        except OSError:
            return video  # it is not there any more
        return video if unchanged else self._looked_at(video)

    def _looked_at(self, video: Video) -> Video:
        """Look at a file, and keep its facts; what was encoded before is another file.

        Raises:
            R2rtError: it is no video that can be read.
        """
        facts = file_facts(video.path)
        self._database.write(
            "UPDATE videos SET facts = ?, state = iif(state = 'ready', 'new', state) WHERE id = ?",
            (json.dumps(facts), video.id),
        )
        return self.get(video.id)

    def set_state(self, id_: str, state: State, error: str | None = None) -> None:
        """Note how far a video is."""
        self._database.write(
            "UPDATE videos SET state = ?, error = ? WHERE id = ?", (state, error, id_)
        )

    def recover(self) -> None:
        """Note that nothing is encoded yet, when the service begins; a job that goes on says so."""
        self._database.write("UPDATE videos SET state = 'new' WHERE state = 'encoding'")

    def remove(self, id_: str) -> None:
        """Forget a video; the file of one that was uploaded or fetched is removed.

        Raises:
            ProblemError: there is none of that id.
        """
        import shutil

        video = self.get(id_)
        with self._database.transaction():
            self._database.write("DELETE FROM annotations WHERE video = ?", (id_,))
            self._database.write("DELETE FROM videos WHERE id = ?", (id_,))
        own = video.origin in ("upload", "url") or video.url is not None
        if own and video.path.parent.parent == self.folder:
            shutil.rmtree(video.path.parent, ignore_errors=True)

    def _insert(
        self,
        name: str,
        path: Path,
        origin: Origin,
        *,
        url: str | None = None,
        facts: dict[str, Any] | None = None,
    ) -> Video:
        values = (secrets.token_hex(8), name[:255], origin, self._stored(path), url)
        with contextlib.suppress(sqlite3.IntegrityError):  # another request was faster
            self._database.write(
                "INSERT INTO videos (id, name, origin, path, url, state, facts, added_at) "
                "VALUES (?, ?, ?, ?, ?, 'new', ?, ?)",
                (*values, None if facts is None else json.dumps(facts), time.time()),
            )
        video = self._at(path)
        assert video is not None
        return video

    def _at(self, path: Path) -> Video | None:
        """Return the video whose file is at a path; None if there is none."""
        row = self._database.row("SELECT * FROM videos WHERE path = ?", (self._stored(path),))
        return None if row is None else self._video(row)

    def _stored(self, path: Path) -> str:
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    def _video(self, row: sqlite3.Row) -> Video:
        return Video(
            id=row["id"],
            name=row["name"],
            path=self.folder / row["path"],
            origin=row["origin"],
            url=row["url"],
            state=row["state"],
            error=row["error"],
            facts=json.loads(row["facts"]) if row["facts"] else {},
            added_at=row["added_at"],
        )


def file_facts(path: Path) -> dict[str, Any]:
    """Return what a video file is, as plain types.

    Raises:
        SourceNotFoundError, NotAVideoError, NoVideoStreamError, NoFramesError: see `inspect_file`.
    """
    from r2rt.service.containers import container_of
    from r2rt.video.inspection import inspect_file

    container = container_of(path)
    try:
        version = _version(path)
    except OSError as error:
        raise SourceNotFoundError(f"{path.name}: {error.strerror}") from error
    facts = inspect_file(path)
    index = facts.index
    rate = facts.average_rate or next(iter(facts.declared_rates), None)
    return {
        **version,
        "container": container,
        "duration_s": float((index.end_pts - index.start_pts) * index.time_base),
        "width": facts.display_size[0],
        "height": facts.display_size[1],
        "frame_rate": None if rate is None else float(rate),
        "frame_rate_exact": None if rate is None else str(rate),
        "codec": facts.codec,
        "audio": [
            {"codec": item.codec, "sample_rate": item.rate, "channels": item.channels}
            | {name: as_text(value) for name, value in item.metadata.items()}
            for item in facts.audio
        ],
    }


def _check_fetched(video: Video) -> None:
    if video.url is None or video.facts or video.path.is_file():
        return
    how = "wait for its job"
    if video.is_elsewhere:
        how = "it is at an address of the library: open it on the page, or submit a job `encode`"
    raise ProblemError(409, "not-fetched", f"{video.name} is not fetched; {how}")


def _version(path: Path) -> dict[str, Any]:
    """Return the facts that say whether a file was replaced since they were read."""
    status = path.stat()
    return dict(zip(_VERSION, (status.st_size, status.st_mtime_ns), strict=True))
