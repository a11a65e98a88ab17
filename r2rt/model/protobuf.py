"""The wire format of protocol buffers, in which ONNX files are written: fields, read and written.

A message is a sequence of fields. Each begins with a key, its number and its wire type, and holds a
number or, for texts, arrays and messages, a length and that many bytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

__all__ = ["Buffer", "Field", "encode", "fields", "frame", "head", "number_field", "numbers"]

Buffer: TypeAlias = bytes | mmap.mmap

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """A field of a message: its number, and places in the buffer.

    Attributes:
        number: as the message's definition gives it.
        first: where its key begins.
        start: where its value begins.
        end: where both end.
        framed: whether the value is a text, an array or a message.
    """

    number: int
    first: int
    start: int
    end: int
    framed: bool


def fields(data: Buffer, at: int = 0, end: int | None = None) -> Iterator[Field]:
    """Yield the fields of the message in `data[at:end]`.

    Raises:
        ValueError: that is no message.
    """
    end = len(data) if end is None else end
    while at < end:
        first = at
        key, start = _varint(data, at, end)
        wire = key & 7
        if wire == _VARINT:
            _, at = _varint(data, start, end)
        elif wire == _BYTES:
            length, start = _varint(data, start, end)
            at = start + length
        elif wire in (_FIXED64, _FIXED32):
            at = start + (8 if wire == _FIXED64 else 4)
        else:
            raise ValueError(f"not a protobuf message: wire type {wire}")
        if at > end:
            raise ValueError("not a protobuf message: a field is longer than what holds it")
        yield Field(key >> 3, first, start, at, wire == _BYTES)


def numbers(data: Buffer, field: Field) -> list[int]:
    """Return the varints of a field: one, or a packed array of them."""
    found, at = [], field.start
    while at < field.end:
        value, at = _varint(data, at, field.end)
        found.append(value)
    return found


def encode(value: int) -> bytes:
    """Return a number that is not negative as a varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def head(number: int, length: int) -> bytes:
    """Return the prefix of the bytes of a text, array or message."""
    return encode(number << 3 | _BYTES) + encode(length)


def frame(number: int, value: bytes) -> bytes:
    """Return a field that is a text, array or message."""
    return head(number, len(value)) + value


def number_field(number: int, value: int) -> bytes:
    """Return a field that is a number."""
    return encode(number << 3 | _VARINT) + encode(value)


def _varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """Return the number at `data[at:end]` and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("not a protobuf message: a number does not end")
