"""A key of a source's content that depends neither on its path nor on its dates.

The key is blake2b (16 bytes) over the size and the content. Of a file larger than 2 MiB, only 64
blocks of 16 KiB are read: the first, the last, and others evenly spaced between them, so a film
costs no more than a clip. Files that differ in size, in their first or last block, or throughout a
63rd of their length have different keys. A change of a few bytes in the middle of a large file can
go unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from r2rt.textfiles import UTF8_MARK
from r2rt.video.remote import RemoteReader, VideoPath

__all__ = ["fingerprint_array", "fingerprint_file", "fingerprint_files", "is_playlist"]

WHOLE_BYTES = 2 * 2**20
BLOCK_BYTES = 16 * 2**10
BLOCKS = 64
_LIST_HEAD_BYTES = 4096


def fingerprint_file(path: VideoPath) -> str:
    """Return the key of a file's content, 32 hex digits."""
    return _digest([b"file", _sampled(path)])


def fingerprint_files(paths: Iterable[VideoPath]) -> str:
    """Return the key of the contents of files in this order, whatever their names are.

    One that cannot be read counts as if it held nothing.
    """
    return _digest([b"files", *map(_sampled_if_readable, paths)])


def fingerprint_array(array: NDArray[np.uint8]) -> str:
    """Return the key of an array: its shape and up to 64 entries, evenly spaced in time."""
    entries = _spaced(len(array) - 1, BLOCKS)
    return _digest(
        [b"array", repr(array.shape).encode(), *(array[entry].tobytes() for entry in entries)]
    )


def is_playlist(path: VideoPath) -> bool:
    """Return whether a file names other files, which may change while it stays as it is.

    A file that cannot be read names none.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_LIST_HEAD_BYTES)
    except OSError:
        return False
    text = head.removeprefix(UTF8_MARK).lstrip()
    # As FFmpeg's demuxers hls, concat and dash know them.
    is_mpd = text.startswith(b"<") and b"<MPD" in text
    return is_mpd or text.startswith((b"#EXTM3U", b"ffconcat version"))


def _sampled(path: VideoPath) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            return _joined([str(size).encode(), file.read()])
        parts, offsets = [str(size).encode()], _spaced(size - BLOCK_BYTES, BLOCKS)
        if isinstance(file, RemoteReader):
            file.need([(offset, offset + BLOCK_BYTES) for offset in offsets], before=size)
        for offset in offsets:
            file.seek(offset)
            parts.append(file.read(BLOCK_BYTES))
    return _joined(parts)


def _sampled_if_readable(path: VideoPath) -> bytes:
    try:
        return _sampled(path)
    except OSError:
        return b""


def _spaced(last: int, count: int) -> list[int]:
    """Return up to `count` different whole numbers from 0 to `last`, evenly spaced."""
    return sorted({last * step // (count - 1) for step in range(count)})


def _digest(parts: Iterable[bytes]) -> str:
    return _hash(parts).hexdigest()


def _joined(parts: Iterable[bytes]) -> bytes:
    return _hash(parts).digest()


def _hash(parts: Iterable[bytes]) -> hashlib.blake2b:
    result = hashlib.blake2b(digest_size=16)
    for part in parts:
        result.update(len(part).to_bytes(8, "little"))
        result.update(part)
    return result
