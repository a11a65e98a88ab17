"""Text files that people write: UTF-8, with or without a byte order mark, a record or name a line.

Lines end with a line feed, or with a carriage return and a line feed. `str.splitlines` would also
split at characters that a sentence or a file name may hold, such as U+2028.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from r2rt.errors import QueryError, SourceNotFoundError
from r2rt.files import StrPath, as_text

__all__ = ["UTF8_MARK", "numbered_lines", "other_encoding", "read_bytes", "read_json_lines"]

T = TypeVar("T")

UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_bytes(path: StrPath) -> bytes:
    """Return the content of a file, a pipe, or of standard input for `-`.

    Raises:
        SourceNotFoundError: it cannot be read.
    """
    try:
        if os.fspath(path) == "-":
            return b"" if sys.stdin is None else sys.stdin.buffer.read()
        with open(path, "rb") as file:  # noqa: PTH123  names too long must not reach pathlib
            return file.read()
    except OSError as error:
        raise SourceNotFoundError(f"{as_text(path)}: {error.strerror or error}") from error


def other_encoding(content: bytes) -> str | None:
    """Return what the content is if it is certainly not UTF-8 text, else None."""
    if content[:2] in _UTF16_MARKS:
        return "UTF-16"
    return "UTF-16 or binary" if content[:4].count(0) > 1 else None


def numbered_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number, from 1, and the content of each line that is not blank.

    The byte order mark is left out, and so is the carriage return before a line feed.
    """
    for number, line in enumerate(content.removeprefix(UTF8_MARK).split(b"\n"), start=1):
        if line.strip():
            yield number, line.removesuffix(b"\r")


def read_json_lines(path: StrPath, kind: type[T], *, example: str) -> list[tuple[int, T]]:
    """Return the number and the record of each line of a JSON-lines file; blank lines do not count.

    Args:
        path: the file; `-` is standard input.
        kind: the `msgspec.Struct` that a line is; fields that it does not name are ignored.
        example: a line, for messages.

    Raises:
        SourceNotFoundError: the file cannot be read.
        QueryError: a line is not such a record, or there is none.
    """
    name = "standard input" if os.fspath(path) == "-" else as_text(path)
    content = read_bytes(path)
    encoding = other_encoding(content)
    if encoding is not None:
        raise QueryError(f"{name}: {encoding} text; save the file as UTF-8")
    records = []
    for number, line in numbered_lines(content):
        try:
            records.append((number, msgspec.json.decode(line.decode(), type=kind)))
        except UnicodeDecodeError as error:
            raise QueryError(
                f"{name}:{number}: not UTF-8 text ({error.reason} at byte {error.start + 1})"
            ) from error
        except RecursionError as error:
            raise QueryError(f"{name}:{number}: brackets are nested too deep") from error
        except msgspec.DecodeError as error:
            raise QueryError(
                f"{name}:{number}: {error}; expected an object such as {example}"
            ) from error
    if not records:
        raise QueryError(f"{name}: it is empty; write one JSON object a line, such as {example}")
    return records
