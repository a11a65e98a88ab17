"""Videos at an address that fsspec opens: only the needed bytes are fetched.

A demuxer reads every packet on its way. Where the container lists its packets at the beginning or
the end, as MP4 and QuickTime do, the list says where they lie: what a pass does not need is then
given to the demuxer as zeros and never fetched. Of an MP4 in fragments the demuxer may know the
first one alone, so what lies after the last listed packet is fetched as it comes.

A request takes tens of milliseconds, however little it asks for, so several are under way at once:
for the next needed parts or, where a file is read from one end to the other, for more and more of
what follows.
"""

from __future__ import annotations

import io
import os
import re
import stat
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeAlias
from urllib.parse import unquote

from xxhash import xxh3_64_intdigest

from r2rt.errors import MissingExtraError, SourceNotFoundError

__all__ = [
    "RemoteReader",
    "RemoteVideo",
    "VideoPath",
    "file_name",
    "is_remote",
    "plain_path",
    "shown_address",
    "video_path",
]

# Fetched at once where the needed bytes are unknown: in headers, and in other containers.
BLOCK_BYTES = 256 << 10
# Needed parts that are no farther apart are fetched together: a request takes longer.
_NEAR_BYTES = 64 << 10
_PART_BYTES = 4 << 20
# Requests that are under way at once, and the bytes that they ask for together.
_AT_ONCE = 8
_AT_ONCE_BYTES = 4 << 20
_KEPT_BYTES = 2 * _AT_ONCE_BYTES
# Facts of a file that change with it, as fsspec's packages call them. A tag says it alone: times in
# a folder's listing may be finer than those of the file itself.
_TAGS = ("ETag", "etag")
_TIMES = ("LastModified", "Last-Modified", "last_modified", "mtime", "updated", "created")
Span: TypeAlias = tuple[int, int]


class RemoteVideo:
    """A video at an address, with those methods of `pathlib.Path` that reading it needs.

    As text it is `shown_address`; as a path of the system it is the whole address.

    Args:
        address: such as `https://host/video.mp4` or `s3://bucket/video.mp4`.

    Raises:
        MissingExtraError: fsspec, or what it needs for such an address, is not installed.
        SourceNotFoundError: fsspec knows no such addresses.
    """

    def __init__(self, address: str) -> None:
        try:
            from fsspec.core import url_to_fs

            self._system, self._name = url_to_fs(address)
        except ImportError as error:
            raise MissingExtraError(
                f"{shown_address(address)}: {error}; a video at an address needs pip install "
                "'r2rt[remote]', and s3fs, gcsfs or another package of fsspec for its kind"
            ) from error
        except ValueError as error:
            raise SourceNotFoundError(
                f"{shown_address(address)}: {error}; expected a file, or an address such as "
                "https://… or s3://…; `r2rt watch` follows a live stream"
            ) from error
        self._address = address
        self._is_http = address.startswith(("http://", "https://"))
        self._facts: dict[str, Any] | None = None
        self._gives_parts = False

    def __str__(self) -> str:
        return shown_address(self._address)

    def __fspath__(self) -> str:
        return self._address

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteVideo) and other._address == self._address

    def __hash__(self) -> int:
        return hash(self._address)

    @property
    def name(self) -> str:
        """The file's name."""
        return file_name(self._address)

    @property
    def stem(self) -> str:
        """The file's name without suffix."""
        return PurePath(self.name).stem

    def is_dir(self) -> bool:
        """Return False: a folder of images at an address is not read."""
        return False

    def names_several(self) -> bool:
        """Return whether it is a folder of a store, or has a `*`; a web server lists nothing.

        Raises:
            FileNotFoundError: there is nothing at the address.
            OSError: it cannot be reached.
        """
        if self._is_http:
            return False
        if self._address.endswith("/") or "*" in self._name:
            return True
        return bool(self.facts().get("type") == "directory")

    def files(self) -> list[RemoteVideo]:
        """Return the files below a folder, or those that a `*` fits, with what their store says.

        Raises:
            OSError: they cannot be listed.
        """
        find = self._system.find if "*" not in self._name else self._system.glob
        # A listing is kept, and answers later questions about single files, too.
        self._system.invalidate_cache()
        listed: dict[str, dict[str, Any]] = self._asked(lambda: find(self._name, detail=True))
        self._system.invalidate_cache()
        above, folder = _folder_of(self._address), _folder_of(self._name)
        videos = []
        for name, facts in listed.items():
            if facts.get("type") != "directory":
                # Not fsspec's own address of a file, which lacks a user and a password.
                video = RemoteVideo(above + name[len(folder) :])
                video._facts = facts
                videos.append(video)
        return videos

    def stat(self) -> os.stat_result:
        """Return the size, as the only fact of a file that has no place on this machine."""
        size = self.facts().get("size")
        if size is None:
            raise OSError("its server does not say how large it is")
        return os.stat_result((stat.S_IFREG, 0, 0, 1, 0, 0, int(size), 0, 0, 0))

    def facts(self) -> dict[str, Any]:
        """Return what the server says of the file, asked once.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it cannot be reached.
        """
        if self._facts is None:
            self._facts = self._asked(lambda: self._system.info(self._name))
        return self._facts

    def version(self) -> int | None:
        """Return a number that changes when the file does; None where the server says nothing."""
        facts = self.facts()
        said = [facts[name] for name in _TAGS if facts.get(name)]
        said = said or [facts[name] for name in _TIMES if name in facts]
        return xxh3_64_intdigest(repr(said).encode()) >> 1 if said else None

    def open(self, mode: str = "rb") -> RemoteReader:
        """Open it for reading."""
        assert mode == "rb"
        return RemoteReader(self)

    def fetch(self, spans: Sequence[Span]) -> list[bytes]:
        """Return the bytes of one or more spans, (first, after the last) each, asked for at once.

        Raises:
            SourceNotFoundError: they cannot be fetched, or the server knows no parts of files.
        """
        alone = 1 if self._is_http and not self._gives_parts else 0
        try:
            parts = [self._asked(lambda: self._first_part(spans[0]))] if alone else []
            parts += self._asked(lambda: self._parts(spans[alone:]))
            for part, (start, end) in zip(parts, spans, strict=True):
                if len(part) != end - start:
                    raise OSError(f"{len(part)} bytes of {end - start} came")
        except OSError as error:
            raise SourceNotFoundError(f"{self}: cannot be read: {error}") from error
        return parts

    def _first_part(self, span: Span) -> bytes:
        """Return bytes, with care: some web servers know no parts and answer with whole files.

        fsspec's files see that before they read the answer, unless it is their first bytes anyway.
        """
        start, end = span
        options = {"size": self.stat().st_size, "cache_type": "none"}
        with self._system.open(self._name, "rb", **options) as file:
            file.seek(start)
            try:
                part: bytes = file.read(end - start)
            except ValueError as error:
                raise SourceNotFoundError(
                    f"{self}: its server gives whole files and no parts of them; download it"
                ) from error
        self._gives_parts = start > 0
        return part

    def _parts(self, spans: Sequence[Span]) -> list[bytes]:
        if not spans:
            return []
        starts, ends = [start for start, _ in spans], [end for _, end in spans]
        found = self._system.cat_ranges([self._name] * len(spans), starts, ends)
        for part in found:
            if isinstance(part, Exception):
                raise part
        return list(found)

    def _asked(self, ask: Any) -> Any:
        try:
            return ask()
        except SourceNotFoundError:
            raise
        except Exception as error:  # each kind of address has errors of its own
            reason: BaseException = error
            if isinstance(error, FileNotFoundError):
                # fsspec says so, too, where an HTTP server does not answer or refuses.
                reason = error.__cause__ or error
                status = getattr(reason, "status", None)
                if reason is error or status in (404, 410) or not self._is_http:
                    raise FileNotFoundError("no such file") from error
            text = _without_secrets(str(reason).replace(self._address, str(self)))
            raise OSError(f"{type(reason).__name__}: {text}") from error


VideoPath: TypeAlias = Path | RemoteVideo


def video_path(source: str | os.PathLike[str]) -> VideoPath:
    """Return the path that a text is, or the video at an address; either one stays what it is.

    Raises:
        MissingExtraError, SourceNotFoundError: see `RemoteVideo`.
    """
    if isinstance(source, str) and is_remote(source):
        return RemoteVideo(source)
    return source if isinstance(source, RemoteVideo) else Path(source)


def is_remote(name: str) -> bool:
    """Return whether a library or video has an address such as s3://bucket/name."""
    return "://" in name


def shown_address(address: str) -> str:
    """Return an address as people may see it, without user, password and query; or a path."""
    if not is_remote(address):
        return address
    return re.sub(r"(://)[^/]*@", r"\1", address).partition("?")[0]


def file_name(source: str) -> str:
    """Return the name of a file from its path or its address."""
    return PurePath(plain_path(source)).name


def plain_path(source: str) -> str:
    """Return a path; of an address the text that ends with the file's name, for making names."""
    return unquote(shown_address(source)) if is_remote(source) else source


def _folder_of(text: str) -> str:
    """Return a folder's address or name without its last slash, of a glob the folder before `*`."""
    before, star, _ = text.partition("*")
    return before.rpartition("/")[0] if star else text.rstrip("/")


def _without_secrets(text: str) -> str:
    """Return a message without users, passwords and queries of the addresses in it."""
    text = re.sub(r"(://)[^/\s'\"]*@", r"\1", text)
    return re.sub(r"(://[^\s'\"?]*)\?[^\s'\"]*", r"\1", text)


class RemoteReader(io.RawIOBase):
    """A file at an address.

    Args:
        video: the file.
        block_bytes: bytes that are fetched together, or more where a file is read on and on; None
            fetches the read bytes alone.
    """

    def __init__(self, video: RemoteVideo, *, block_bytes: int | None = None) -> None:
        super().__init__()
        self._video = video
        self._size = video.stat().st_size
        self._at = 0
        self._block = block_bytes
        self._needed: list[Span] | None = None
        self._listed_end = 0
        self._kept: OrderedDict[Span, bytes] = OrderedDict()
        self._ahead = 1

    def need(self, spans: Iterable[Span], *, before: int) -> None:
        """Give zeros for everything before a byte but these spans, (first, after the last) each.

        Spans may reach beyond the end of the file, as those of a truncated one do.
        """
        joined: list[list[int]] = []
        for start, end in sorted(spans):
            near = joined and start - joined[-1][1] <= _NEAR_BYTES
            if near and end - joined[-1][0] <= _PART_BYTES:
                joined[-1][1] = max(joined[-1][1], end)
            else:
                joined.append([max(start, joined[-1][1]) if joined else start, end])
        clamped = ((start, min(end, self._size)) for start, end in joined)
        self._needed = [(start, end) for start, end in clamped if start < end]
        self._listed_end = before

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the number of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte and return its number."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; those that are not needed are zeros.

        Raises:
            SourceNotFoundError: they cannot be fetched.
        """
        end = self._size if size < 0 else min(self._at + size, self._size)
        start, self._at = self._at, max(end, self._at)
        if end <= start:
            return b""
        if self._needed is None and self._block is None:
            return self._video.fetch([(start, end)])[0]
        spans: list[Span] = []
        if self._needed is not None:
            first = max(bisect_left(self._needed, (start, 0)) - 1, 0)
            last = bisect_left(self._needed, (end, 0))
            spans = self._needed[first:last]
        unlisted, block = max(start, self._listed_end), self._block or BLOCK_BYTES
        spans += [
            (place, min(place + block, self._size))
            for place in range(unlisted - unlisted % block, end, block)
            if unlisted < end
        ]
        found = bytearray(end - start)
        for span in spans:
            low, high = max(span[0], start), min(span[1], end)
            if low < high:
                found[low - start : high - start] = self._part(span)[low - span[0] : high - span[0]]
        return bytes(found)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer and return how many bytes were read."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def _part(self, span: Span) -> bytes:
        if span not in self._kept:
            spans = self._with_next(span)
            self._kept.update(zip(spans, self._video.fetch(spans), strict=True))
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(span)
        return self._kept[span]

    def _with_next(self, span: Span) -> list[Span]:
        """Return a part that is to be fetched, and those after it that will be read, too."""
        spans, total = [span], span[1] - span[0]
        for following in self._following(span):
            total += following[1] - following[0]
            if following in self._kept or len(spans) == _AT_ONCE or total > _AT_ONCE_BYTES:
                break
            spans.append(following)
        return spans

    def _following(self, span: Span) -> list[Span]:
        needed, start = self._needed or [], span[0]
        number = bisect_left(needed, span)
        if number < len(needed) and needed[number] == span:
            return needed[number + 1 : number + _AT_ONCE]
        block = self._block or BLOCK_BYTES
        read_on = (start - block, start) in self._kept
        self._ahead = min(2 * self._ahead, _AT_ONCE) if read_on else 1
        end = min(start + self._ahead * block, self._size)
        return [(place, min(place + block, self._size)) for place in range(start, end, block)][1:]
