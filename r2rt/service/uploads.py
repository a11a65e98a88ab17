"""Uploads that can be resumed: what of them has come, and what becomes of them when all has."""

from __future__ import annotations

import base64
import binascii
import contextlib
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r2rt.errors import R2rtError
from r2rt.portable import replace
from r2rt.service.database import Database
from r2rt.service.names import plain_name, stored_name
from r2rt.service.problems import ProblemError
from r2rt.service.settings import Settings
from r2rt.service.videos import Video, Videos

__all__ = ["Upload", "Uploads", "file_name"]

# Left free on the disk for everything else.
_SPARE_BYTES = 1 << 30
_MOST = 1000


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An upload.

    Attributes:
        id: what it is asked for by.
        owner: who began it; nobody else sees it.
        name: the file's name, for people.
        length: its size in bytes.
        offset: how many of them have come.
        created_at: seconds since 1970.
        video: the video that it became.
    """

    id: str
    owner: str
    name: str
    length: int
    offset: int
    created_at: float
    video: str | None


class Uploads:
    """The table of uploads, and a file for each that is not whole."""

    def __init__(
        self, database: Database, folder: Path, videos: Videos, settings: Settings
    ) -> None:
        self._database = database
        self._folder = folder
        self._videos = videos
        self._settings = settings
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, owner: str, length: int, metadata: str) -> Upload:
        """Begin an upload.

        Args:
            owner: who uploads.
            length: size of the file in bytes.
            metadata: the header `Upload-Metadata`, whose `filename` is read.

        Raises:
            ProblemError: it is too large, or there is no room.
        """
        most = self._settings.max_upload_bytes
        if not 0 < length <= most:
            raise ProblemError(
                413, "too-large", f"{length} bytes; expected 1 to {most} (--max-upload)"
            )
        row = self._database.row("SELECT count(*) FROM uploads WHERE video IS NULL")
        if row is not None and row[0] >= _MOST:
            raise ProblemError(
                503, "too-many-uploads", f"{_MOST} uploads are unfinished; try later"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self._folder).free < length + _SPARE_BYTES:
            raise ProblemError(507, "disk-full", "there is not enough room on the server's disk")
        id_, name = secrets.token_hex(8), file_name(metadata)
        self._path(id_).touch(mode=0o600)
        self._database.write(
            "INSERT INTO uploads (id, owner, name, length, created_at) VALUES (?, ?, ?, ?, ?)",
            (id_, owner, name, length, time.time()),
        )
        return self.get(id_, owner)

    def get(self, id_: str, owner: str) -> Upload:
        """Return an upload.

        Raises:
            ProblemError: there is none of that id, or it is another's.
        """
        row = self._database.row("SELECT * FROM uploads WHERE id = ? AND owner = ?", (id_, owner))
        if row is None:
            raise ProblemError(
                404, "no-such-upload", "no upload has this id; unfinished ones expire"
            )
        try:
            # One that was moved is whole, and is made a video of when it is asked for again.
            whole = row["video"] or self._moved(id_, row["name"]).exists()
            offset = row["length"] if whole else self._path(id_).stat().st_size
        except OSError:
            raise ProblemError(410, "upload-gone", "the upload is not there any more") from None
        return Upload(
            id=row["id"],
            owner=row["owner"],
            name=row["name"],
            length=row["length"],
            offset=offset,
            created_at=row["created_at"],
            video=row["video"],
        )

    @contextlib.contextmanager
    def receiving(self, id_: str) -> Iterator[Path]:
        """Give the file to append to, to one request at a time.

        Raises:
            ProblemError: another request is sending to it.
        """
        with self._lock:
            if id_ in self._busy:
                raise ProblemError(423, "upload-busy", "another request is sending to this upload")
            self._busy.add(id_)
        try:
            yield self._path(id_)
        finally:
            with self._lock:
                self._busy.discard(id_)

    def finish(self, upload: Upload) -> Video:
        """Make a video of an upload that is whole.

        Raises:
            R2rtError: it is no video that can be read; it is removed.
        """
        path = self._moved(upload.id, upload.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._path(upload.id).exists():  # else it was moved before the process ended
            replace(self._path(upload.id), path)
        try:
            video = self._videos.add_path(path.resolve(), name=upload.name, origin="upload")
        except R2rtError:
            shutil.rmtree(path.parent, ignore_errors=True)
            self._database.write("DELETE FROM uploads WHERE id = ?", (upload.id,))
            raise
        self._database.write("UPDATE uploads SET video = ? WHERE id = ?", (video.id, upload.id))
        return video

    def remove(self, id_: str, owner: str) -> None:
        """Forget an upload, and what has come of it; the video that it became stays.

        Raises:
            ProblemError: there is none of that id.
        """
        self.get(id_, owner)
        self._forget(id_)

    def expire(self) -> None:
        """Forget uploads that were begun too long ago."""
        before = time.time() - self._settings.upload_expiry_s
        for row in self._database.rows("SELECT id FROM uploads WHERE created_at < ?", (before,)):
            if row["id"] not in self._busy:
                self._forget(row["id"])

    def _forget(self, id_: str) -> None:
        row = self._database.row("SELECT * FROM uploads WHERE id = ?", (id_,))
        self._path(id_).unlink(missing_ok=True)
        if row is not None and row["video"] is None:
            shutil.rmtree(self._moved(id_, row["name"]).parent, ignore_errors=True)
        self._database.write("DELETE FROM uploads WHERE id = ?", (id_,))

    def _path(self, id_: str) -> Path:
        return self._folder / id_

    def _moved(self, id_: str, name: str) -> Path:
        """Return where the file of an upload goes that is whole."""
        return self._videos.folder / id_ / stored_name(name)


def file_name(metadata: str) -> str:
    """Return the `filename` of a header `Upload-Metadata`, without folders and control characters.

    Raises:
        ProblemError: the header is none of that kind.
    """
    name = "video"
    for pair in filter(None, metadata.split(",")):
        key, _, value = pair.strip().partition(" ")
        if key == "filename":
            try:
                name = base64.b64decode(value, validate=True).decode()
            except (binascii.Error, ValueError):
                raise ProblemError(
                    400, "bad-metadata", "Upload-Metadata: filename is no base64 of UTF-8"
                ) from None
    return plain_name(name)
