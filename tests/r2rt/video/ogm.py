"""A writer of OGM: Ogg with a video codec of AVI, whose packets have no presentation times."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path


def write_ogm(
    path: Path,
    packets: Sequence[tuple[bytes, bool]],
    *,
    fourcc: bytes,
    rate: int,
    size: tuple[int, int],
) -> Path:
    """Write packets, (data, is_keyframe) each, at `rate` frames a second."""
    header = b"\x01video\0\0\0" + fourcc
    header += struct.pack("<IqqIIHHII", 56, 10_000_000 // rate, 1, 1, 0, 24, 0, *size)
    pages = [_page(header, 0, 0, kind=2), _page(b"\x03" + bytes(7) + bytes(8) + b"\x01", 0, 1)]
    for number, (data, is_key) in enumerate(packets):
        kind = 4 if number == len(packets) - 1 else 0
        body = (b"\x08" if is_key else b"\0") + data
        pages.append(_page(body, number, number + 2, kind=kind))
    path.write_bytes(b"".join(pages))
    return path


def _page(body: bytes, granule: int, sequence: int, *, kind: int = 0) -> bytes:
    lacing = bytes([255] * (len(body) // 255) + [len(body) % 255])
    assert len(lacing) < 256
    head = struct.pack("<4sBBqIII B", b"OggS", 0, kind, granule, 1, sequence, 0, len(lacing))
    page = bytearray(head + lacing + body)
    page[22:26] = struct.pack("<I", _crc(page))
    return bytes(page)


def _crc(data: bytes | bytearray) -> int:
    crc = 0
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc
