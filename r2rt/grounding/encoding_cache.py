"""Encoded videos by content, bounded in size: asking about the same video again decodes nothing.

An entry's name is a hash of all that decides what is in it: the video's bytes, the model's
fingerprint, and how frames were chosen. So a video that was moved or renamed is found again, and
one that was changed is not. Entries appear and disappear whole, whatever other processes do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from r2rt.cache.folder import CacheFolder, cache_dir, report_unusable
from r2rt.errors import EncodedVideoError, SourceNotFoundError
from r2rt.grounding.encoded import EncodedVideo
from r2rt.grounding.options import ENCODE_DEFAULTS
from r2rt.memory import parse_bytes
from r2rt.video.remote import RemoteVideo, VideoPath

__all__ = ["DEFAULT_MAX_BYTES", "EncodingCache"]

DEFAULT_MAX_BYTES = 4 << 30
# Part of every key: another number whenever decoding or tokens come to mean something else.
_GENERATION = 3
_SUFFIX = ".r2rt"
# The most that an encoding takes beside its tokens; a name may have some KB.
_HEADER_BYTES = 16 << 10
# Hashes of files that are remembered; a file system gives each some KB.
_MOST_HASHES = 10_000


class EncodingCache:
    """A folder of encoded videos, the least recently used of which make room for new ones.

    Args:
        folder: where they are; `encodings` in `cache_dir()` if None.
        max_bytes: how much they may take together; `$R2RT_CACHE_BYTES` (units as in `4G`) or 4 GiB
            if None.

    Raises:
        QueryError: the variable is no size.
    """

    def __init__(self, folder: Path | None = None, *, max_bytes: int | None = None) -> None:
        self.folder = cache_dir() / "encodings" if folder is None else folder
        if max_bytes is None:
            text = os.environ.get("R2RT_CACHE_BYTES", "").strip()
            max_bytes = parse_bytes(text, what="R2RT_CACHE_BYTES") if text else DEFAULT_MAX_BYTES
        self.max_bytes = max_bytes
        self._entries = CacheFolder(self.folder, max_bytes, _SUFFIX)

    def key(self, video: VideoPath, model_fingerprint: str, options: Mapping[str, object]) -> str:
        """Return the entry's name for a video file under a model and encoding options.

        At an address, what its server says of the file stands for its bytes.

        Raises:
            SourceNotFoundError: the file cannot be read.
        """
        parts = (
            _GENERATION,
            self._content_hash(video),
            model_fingerprint,
            # One that has its default says no more than one that is not given.
            sorted(
                (name, str(value))
                for name, value in options.items()
                if value != ENCODE_DEFAULTS.get(name)
            ),
        )
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:40]

    def get(self, key: str, source: str) -> EncodedVideo | None:
        """Return the entry, with `source` as its name and no time spent; None if there is none.

        A damaged entry is removed and counts as none.
        """
        if not self.max_bytes:
            return None  # switched off, whatever is still there
        try:
            encoded = EncodedVideo.load(self._entries.path(key))
        except (SourceNotFoundError, PermissionError):
            return None
        except EncodedVideoError:
            self._entries.discard(key)
            return None
        self._entries.touch(key)
        return dataclasses.replace(encoded, source=source, encode_s=0.0)

    def put(self, key: str, encoded: EncodedVideo) -> bool:
        """Keep an encoded video, for which others make room; return whether it was kept.

        One that alone would take more than half of the room is not kept.
        """
        self._forget_hashes()
        try:
            return self._entries.put(key, encoded.nbytes + _HEADER_BYTES, encoded.write)
        except OSError as error:
            # A cache that cannot be written is no reason to fail: the answer is there already.
            report_unusable(error)
            return False

    def entries(self) -> list[tuple[Path, int]]:
        """Return every entry and its bytes, the least recently used first."""
        return [(entry.path, entry.size) for entry in self._entries.entries()]

    def _forget_hashes(self) -> None:
        """Remove the oldest hashes, which are computed again where they are needed."""
        with contextlib.suppress(OSError):  # there is none, or another process removes them, too
            memos = list((self.folder / "hashes").iterdir())
            if len(memos) > _MOST_HASHES:
                memos.sort(key=lambda memo: memo.stat().st_mtime_ns)
                for memo in memos[:-_MOST_HASHES]:
                    memo.unlink()

    def _content_hash(self, video: VideoPath) -> str:
        """Return the sha256 of a file, remembered as long as the file's status does not change."""
        try:
            if isinstance(video, RemoteVideo):
                return f"{os.fspath(video)} {video.stat().st_size} {video.version()}"
            status = video.stat()
            identity = (
                os.fsencode(video.resolve()).hex(),  # a name need not be text
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
                status.st_ino,
            )
            name = hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:40]
            memo = self.folder / "hashes" / name
            with contextlib.suppress(OSError, UnicodeDecodeError):  # then it is computed again
                digest = memo.read_text()
                if len(digest) == 64:
                    return digest
            with video.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise SourceNotFoundError(f"{video}: {error.strerror or error}") from error
        try:
            memo.parent.mkdir(parents=True, exist_ok=True)
            memo.write_text(digest)
        except OSError as error:
            report_unusable(error)
        return digest
