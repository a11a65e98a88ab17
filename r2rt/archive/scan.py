"""Which files of a library are new, changed, moved or gone, found without reading them whole.

A file of the same size and time is the same. Another one is compared by its content
(`r2rt.video.fingerprint`): content that the library has already was moved, if the file it was found
in is gone, or copied; either way its vectors are there.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from r2rt.archive.subtitles import subtitle_names, words_key
from r2rt.errors import NotAVideoError, SourceNotFoundError
from r2rt.grounding.many import find_videos, kind_of, list_videos, names_several
from r2rt.video.fingerprint import fingerprint_file, fingerprint_files, is_playlist
from r2rt.video.remote import RemoteVideo, is_remote, shown_address, video_path

if TYPE_CHECKING:
    from r2rt.archive.tables import Row, Tables

__all__ = ["READY", "File", "Scan", "known_videos", "scan"]

READY, FAILED, MISSING = "ready", "failed", "missing"
_COLUMNS = (
    *("path", "content", "entry", "words", "words_key", "state", "size", "mtime_ns"),
    *("clips", "keep", "tags"),
)
_ENCODED = ".r2rt"
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True)
class File:
    """A file as it was found.

    Attributes:
        path: absolute, or an address.
        size: bytes; for a folder of images their sum; -1 where there is no such file.
        mtime_ns: time of the last change; at an address a number that changes with the file.
        words_key: which subtitle files lie beside it, see `r2rt.archive.subtitles`.
    """

    path: str
    size: int
    mtime_ns: int
    words_key: str

    def content(self) -> str:
        """Return a key of the content.

        Raises:
            SourceNotFoundError: the file cannot be read.
            NotAVideoError: it names other files, whose changes it would not show.
        """
        try:
            path = video_path(self.path)
            if isinstance(path, Path):
                if path.is_dir():
                    images = sorted(item for item in path.iterdir() if item.is_file())
                    return fingerprint_files(images)
                if is_playlist(path):
                    raise NotAVideoError(
                        f"{path}: a playlist, which stays the same when the files that it names "
                        "change; index its files, or join them into one first"
                    )
            return fingerprint_file(path)
        except SourceNotFoundError:
            raise
        except OSError as error:
            name = shown_address(self.path)
            raise SourceNotFoundError(f"{name}: {error.strerror or error}") from error


@dataclass(kw_only=True)
class Scan:
    """What is to be done.

    Attributes:
        work: files to read: new ones, changed ones, and failed ones that changed.
        words: rows whose subtitle files changed, with the file as it is now.
        missing: paths whose files are gone.
        same: how many files are as they were.
        failed: how many failed before and have not changed since.
    """

    work: list[File] = field(default_factory=list)
    words: list[tuple[Row, File]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    same: int = 0
    failed: int = 0


def known_videos(tables: Tables) -> dict[str, Row]:
    """Return what the library knows of every file, by path."""
    return {row["path"]: row for row in tables.videos.rows(_COLUMNS).to_pylist()}


def scan(
    sources: Sequence[str],
    known: Mapping[str, Row],
    *,
    retry: bool = False,
    follow: bool = False,
    keep: str | None = None,
) -> Scan:
    """Compare files with what the library knows.

    Args:
        sources: files, folders, globs (see `find_videos`), and addresses of these.
        known: by path, see `known_videos`.
        retry: read files that failed once more although they have not changed.
        follow: a folder on disk may have no video yet.
        keep: read files again if less than this was kept of them.

    Raises:
        SourceNotFoundError: a folder or glob leads to no video, and to none that was there before.
    """
    found = Scan()
    names_in = functools.cache(subtitle_names)  # a folder of many videos is listed once
    for path, video in _paths(sources, known, follow=follow).items():
        row = known.get(path)
        file = _stat(path, names_in) if not is_remote(path) else _remote(path, video, row)
        if file is None:
            if row is None:
                found.work.append(File(path=path, size=-1, mtime_ns=-1, words_key=""))
            elif row["state"] != MISSING:
                found.missing.append(path)
            continue
        is_as_it_was = row is not None and (row["size"], row["mtime_ns"]) == (
            file.size,
            file.mtime_ns,
        )
        if row is None or not is_as_it_was or row["state"] == MISSING:
            found.work.append(file)
        elif row["state"] == FAILED:
            if retry:
                found.work.append(file)
            else:
                found.failed += 1
        elif keep == "tokens" and row["keep"] == "vectors":
            found.work.append(file)
        elif row["words_key"] != file.words_key:
            found.words.append((row, file))
        else:
            found.same += 1
    return found


def _paths(
    sources: Sequence[str], known: Mapping[str, Row], *, follow: bool
) -> dict[str, RemoteVideo | None]:
    """Return what sources name now, then the known files among them that are gone.

    Files that a shell's glob names singly say nothing of one that is gone; so the other known ones
    of their folders are looked at, but none elsewhere: its disk may not be there now. A file at an
    address comes with what was said of it, where it was listed.
    """
    paths: dict[str, RemoteVideo | None] = {}
    folders: set[str] = set()
    gone: dict[str, None] = {}
    for source in sources:
        if is_remote(source):
            paths |= _at_address(source, known)
            continue
        root = os.path.realpath(source)
        if kind_of(source) == "file":
            folders.add(os.path.dirname(root))  # noqa: PTH120
            below, videos = [], [root]
        else:
            below = _below(source, root, known)
            try:
                videos = [os.path.realpath(video) for video in find_videos([source])]
            except SourceNotFoundError:
                if not below and not (follow and kind_of(source) == "folder"):
                    raise
                videos = []
        paths |= dict.fromkeys(video for video in videos if not video.endswith(_ENCODED))
        gone |= dict.fromkeys(below)
    if folders:
        gone |= dict.fromkeys(path for path in known if os.path.dirname(path) in folders)  # noqa: PTH120
    return paths | dict.fromkeys(path for path in gone if kind_of(path) is None)


def _at_address(source: str, known: Mapping[str, Row]) -> dict[str, RemoteVideo | None]:
    """Return the file at an address, or the videos of a folder or glob and those gone from it.

    Raises:
        SourceNotFoundError: a folder or glob cannot be listed, or has no video and had none.
    """
    try:
        there = RemoteVideo(source)
        several = there.names_several()
    except OSError:  # which reading it tells
        return {source: None}
    if not several:
        return {source: there}
    videos: dict[str, RemoteVideo | None] = {
        os.fspath(video): video
        for video in list_videos(there)
        if not video.name.lower().endswith(_ENCODED)
    }
    pattern = source.replace("**/", "*") if "*" in source else f"{escape(source.rstrip('/'))}/*"
    before = [path for path in known if path not in videos and fnmatchcase(path, pattern)]
    if not videos and not before:
        raise SourceNotFoundError(f"{there}: no videos there")
    return videos | dict.fromkeys(before)


def _below(source: str, root: str, known: Mapping[str, Row]) -> list[str]:
    """Return the known files that a folder or a glob named, or would have."""
    if names_several(source) and kind_of(source) is None:
        pattern = root.replace(f"**{os.sep}", "*")  # `*` stands for any folders here
        return [path for path in known if fnmatchcase(path, pattern)]
    return [path for path in known if path == root or path.startswith(root + os.sep)]


def _stat(path: str, names_in: Callable[[Path], Sequence[str]]) -> File | None:
    video = Path(path)
    try:
        status = video.stat()
        size, mtime_ns = status.st_size, status.st_mtime_ns
        if video.is_dir():
            size, mtime_ns = _sum_of(video.iterdir())
    except OSError:
        return None
    return _file(path, size, mtime_ns, words_key(video, names_in(video.parent)))


def _remote(path: str, video: RemoteVideo | None, row: Row | None) -> File | None:
    """Return a file at an address; as it was before where its server cannot be reached now."""
    try:
        video = video or RemoteVideo(path)
        size, version = video.stat().st_size, video.version() or 0
    except FileNotFoundError:
        return None
    except OSError:
        if row is None:
            return None
        size, version = row["size"], row["mtime_ns"]
    return _file(path, size, version, "")


def _file(path: str, size: int, mtime_ns: int, words_key: str) -> File:
    """Return a file with numbers that the table can hold, whatever a clock or a server says."""
    size, mtime_ns = min(size, _LARGEST), max(-_LARGEST, min(mtime_ns, _LARGEST))
    return File(path=path, size=size, mtime_ns=mtime_ns, words_key=words_key)


def _sum_of(files: Iterable[Path]) -> tuple[int, int]:
    size, newest = 0, 0
    for file in files:
        with contextlib.suppress(OSError):
            status = file.stat()
            size, newest = size + status.st_size, max(newest, status.st_mtime_ns)
    return size, newest
