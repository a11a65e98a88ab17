"""Whether a container's parts fit together, since FFmpeg reads past what does not without an error.

Where a stretch of a file is missing or overwritten, the demuxer searches on for the next part that
it knows. The frames between are gone, and often no packet is marked as damaged. Here only the
headers of parts are read: elements of Matroska and WebM, tags of FLV, boxes of MP4, objects and
packets of ASF; packets and frames of NUT; and the pages of Ogg, which FFmpeg leaves out where their
checksum is wrong.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

from r2rt.video.file_bytes import FileBytes
from r2rt.video.nut import walk_nut

__all__ = ["broken_at"]


def broken_at(path: Path, format_name: str) -> int | None:
    """Return the first byte at which a container's parts do not fit together, None if all fit.

    Args:
        path: the file.
        format_name: FFmpeg's name of the container; None is returned for one of another kind.
    """
    walk = _WALKS.get(format_name.partition(",")[0])
    if walk is None:
        return None
    try:
        with path.open("rb", buffering=0) as file:
            return walk(FileBytes(file))
    except OSError:
        return None  # it cannot be read to its end, or was made shorter meanwhile


# Elements of Matroska and WebM (RFC 8794, RFC 9559) by what they may hold.
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_FILE = 0
_LONGEST_HEAD = 12  # bytes of a name and a length
_VOID, _CHECKSUM = 0xEC, 0xBF
_HOLDS = {
    _FILE: frozenset((0x1A45DFA3, _SEGMENT, _VOID)),  # the first is the EBML header
    _SEGMENT: frozenset(
        # seek head, info, tracks, cues, attachments, chapters, tags
        (
            *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367),
            *(_CLUSTER, _VOID, _CHECKSUM),
        )
    ),
    _CLUSTER: frozenset(
        # timestamp, simple block, block group, size of the last, position, silent, encrypted block
        (0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0x5854, 0xAF, _VOID, _CHECKSUM)
    ),
}


def _walk_matroska(data: FileBytes) -> int | None:
    size = len(data)
    # What is entered: name, where it ends, whether its size is known.
    inside = [(_FILE, size, True)]
    at, breaks_off = 0, False
    while at < size:
        while len(inside) > 1 and at == inside[-1][1]:
            inside.pop()
        name, body, length = _element_head(data, at)
        if name not in _HOLDS[inside[-1][0]]:
            # What follows a whole segment is not of the video.
            is_foreign = len(inside) == 1 and at > 0 and not breaks_off
            # A part of unknown size ends where something begins that it cannot hold.
            while name not in _HOLDS[inside[-1][0]] and not inside[-1][2]:
                inside.pop()
            if name not in _HOLDS[inside[-1][0]]:
                return None if is_foreign else at
        parent_end = inside[-1][1]
        end = parent_end if length is None else body + length
        if name in (_SEGMENT, _CLUSTER):
            breaks_off |= end > parent_end
            inside.append((name, min(end, parent_end), length is not None))
            at = body
        elif end > parent_end:
            return at
        else:
            at = end
    return size if breaks_off else None


def _element_head(data: FileBytes, at: int) -> tuple[int, int, int | None]:
    """Return an element's name, where its content begins, and its length, None where unknown.

    The name is 0 where no element begins.
    """
    head = data[at : at + _LONGEST_HEAD]
    name_width = 9 - head[0].bit_length()
    if name_width > 4 or name_width >= len(head):
        return 0, at, 0
    length_width = 9 - head[name_width].bit_length()
    if length_width > 8:
        return 0, at, 0
    width = name_width + length_width
    ones = (1 << 7 * length_width) - 1
    length = int.from_bytes(head[name_width:width]) & ones
    return int.from_bytes(head[:name_width]), at + width, None if length == ones else length


def _walk_ogg(data: FileBytes) -> int | None:
    """Pages follow one another (RFC 3533), are counted by stream, and have a checksum each."""
    expected: dict[bytes, int] = {}
    at, size = 0, len(data)
    while at < size:
        head = data[at : at + 27]
        if len(head) < 27 or head[:5] != b"OggS\0":
            return at
        begins, serial, number = head[5] & 2, head[14:18], int.from_bytes(head[18:22], "little")
        if not begins and number != expected.get(serial, number):
            return at
        expected[serial] = (number + 1) & 0xFFFFFFFF
        body = at + 27 + head[26]
        end = body + sum(data[at + 27 : body])
        page = b"".join((head[:22], bytes(4), data[at + 26 : end]))
        if end > size or _ogg_checksum(page) != int.from_bytes(head[22:26], "little"):
            return at
        at = end
    return None


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    """Return the CRC of 0x04c11db7 that begins with 0: zlib's with all bits mirrored."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _walk_flv(data: FileBytes) -> int | None:
    """Each tag of audio, video or script ends with its size, which some writers leave out."""
    at, size = int.from_bytes(data[5:9]) + 4, len(data)
    sizes_are_written = None
    while at < size:
        head = data[at : at + 11]
        length = 11 + int.from_bytes(head[1:4])
        end = at + length + 4
        if end > size or head[0] & 0x1F not in (8, 9, 18) or any(head[8:]):
            return at
        matches = int.from_bytes(data[end - 4 : end]) == length
        if sizes_are_written is None:
            sizes_are_written = matches
        elif sizes_are_written and not matches:
            return at
        at = end
    return None


def _walk_boxes(data: FileBytes) -> int | None:
    """Boxes of MP4 and QuickTime follow one another; their names are four printable letters.

    What follows the boxes of a whole video is not of it, such as the notes of some cameras.
    """
    at, size = 0, len(data)
    missing = {b"moov", b"mdat"}
    while at + 8 <= size:
        head = data[at : at + 8]
        length, name = int.from_bytes(head[:4]), head[4:]
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16])
        elif length == 0:
            length = size - at  # the last one
        # Zeros at the end, and names beginning with a sign of copyright, are QuickTime's.
        if not any(head):
            return at if missing and not data.is_zero_from(at) else None
        if length < 8 or at + length > size or not all(32 <= c < 127 or c == 0xA9 for c in name):
            return at if missing else None
        if name == b"moov" and data.find(b"mvex", at, at + length) >= 0:
            missing.add(b"mvex")  # fragments follow, as far as the file goes
        missing.discard(name)
        at += length
    return None


_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def _walk_asf(data: FileBytes) -> int | None:
    """Objects follow one another, and packets of one size fill the data object."""
    at, size, packet = 0, len(data), 0
    while at + 24 <= size:
        name, length = data[at : at + 16], int.from_bytes(data[at + 16 : at + 24], "little")
        if length < 24:
            return at
        if not at:
            properties = data.find(_ASF_FILE, 0, min(length, size))
            least = data[properties + 92 : properties + 96]
            same = properties > 0 and least == data[properties + 96 : properties + 100]
            packet = int.from_bytes(least, "little") if same else 0
        if name == _ASF_DATA and packet:
            begins = data[at + 50 : at + 53]
            for place in range(at + 50, min(at + length, size), packet):
                if data[place : place + 3] != begins:
                    return place
        if at + length > size:
            return size
        at += length
    return None


_WALKS: dict[str, Callable[[FileBytes], int | None]] = {
    "matroska": _walk_matroska,
    "ogg": _walk_ogg,
    "flv": _walk_flv,
    "mov": _walk_boxes,
    "asf": _walk_asf,
    "nut": walk_nut,
}
