"""Whether the packets and frames of a NUT file follow one another.

After the file's name come packets, each with a start code of eight bytes and its own length, and
frames, each with a head whose first byte names a row of a table in the main header. The row says
which numbers follow in the head; together they give the frame's length. Source: the format's
specification, `doc/nut.txt` of libnut.
"""

from __future__ import annotations

from dataclasses import dataclass

from r2rt.video.file_bytes import FileBytes

__all__ = ["walk_nut"]

_NAME = b"nut/multimedia container\0"
_MAIN = bytes.fromhex("4e4d7a561f5f04ad")
_OTHERS = frozenset(
    map(
        bytes.fromhex,
        # stream, sync point, index, info
        ("4e5311405bf2f9db", "4e4be4adeeca4569", "4e58dd672f23e64e", "4e49ab68b596ba78"),
    )
)
# A packet of more bytes has a checksum in its head.
_SHORT_PACKET = 4096
# Flags of a frame: what its head holds beyond the row's own values.
_CODED_PTS, _STREAM_ID, _SIZE_MSB = 1 << 3, 1 << 4, 1 << 5
_CHECKSUM, _RESERVED = 1 << 6, 1 << 7
_HEADER_INDEX, _MATCH_TIME, _CODED, _INVALID = 1 << 10, 1 << 11, 1 << 12, 1 << 13
_LONGEST_NUMBER = 10  # bytes of 7 bits
_LONGEST_WITH_HEADER = 4096  # longer frames elide no header


@dataclass(frozen=True)
class _Row:
    """What a frame code says: flags, and the parts of the frame's length."""

    flags: int
    size_factor: int
    size_rest: int
    header: int
    reserved: int


class _Reader:
    """Reads numbers of variable length from a place on."""

    def __init__(self, data: FileBytes, at: int) -> None:
        self.data = data
        self.at = at

    def number(self) -> int:
        value = 0
        for _ in range(_LONGEST_NUMBER):
            byte = self.data[self.at]
            self.at += 1
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
        raise ValueError("a number of more than 64 bits")

    def block(self) -> int:
        """Pass over bytes that follow their count, and return the count."""
        size = self.number()
        self.at += size
        return size


def walk_nut(data: FileBytes) -> int | None:
    """Return the first byte at which nothing begins that may follow there, None if all is whole."""
    at, size = len(_NAME), len(data)
    rows: list[_Row] = []
    headers: list[int] = []
    while at < size:
        reader = _Reader(data, at)
        try:
            code = data[at : at + 8]
            if code == _MAIN:
                end = _packet(reader)
                rows, headers = _main_header(reader)
            elif code in _OTHERS:
                end = _packet(reader)
            else:
                end = _frame(reader, rows, headers)
        except (IndexError, ValueError):
            return at
        if end > size:
            return at
        at = end
    return None


def _packet(reader: _Reader) -> int:
    """Enter a packet and return where it ends."""
    reader.at += 8
    length = reader.number()
    reader.at += 4 * (length > _SHORT_PACKET)
    return reader.at + length


def _frame(reader: _Reader, rows: list[_Row], headers: list[int]) -> int:
    """Return where a frame ends."""
    row = rows[reader.data[reader.at]]
    reader.at += 1
    flags, factor, header, reserved = row.flags, 0, row.header, row.reserved
    if flags & _CODED:
        flags ^= reader.number()
    if flags & _INVALID:
        raise ValueError("no frame has this code")
    for flag in (_STREAM_ID, _CODED_PTS):
        if flags & flag:
            reader.number()
    if flags & _SIZE_MSB:
        factor = reader.number()
    if flags & _MATCH_TIME:
        reader.number()
    if flags & _HEADER_INDEX:
        header = reader.number()
    if flags & _RESERVED:
        reserved = reader.number()
    for _ in range(reserved):
        reader.number()
    reader.at += 4 * bool(flags & _CHECKSUM)
    length = factor * row.size_factor + row.size_rest
    elided = headers[header] if length <= _LONGEST_WITH_HEADER else 0
    return reader.at + max(length - elided, 0)  # side data lie inside


def _main_header(reader: _Reader) -> tuple[list[_Row], list[int]]:
    """Return the rows of all 256 frame codes, and the lengths of the headers that frames elide."""
    if reader.number() > 3:  # version
        reader.number()  # minor version
    reader.number()  # streams
    reader.number()  # distance of sync points
    for _ in range(reader.number()):  # time bases
        reader.number()
        reader.number()
    rows: list[_Row] = []
    factor, header = 1, 0
    while len(rows) < 256:
        flags, fields = reader.number(), reader.number()
        stream_size = reserved = 0
        if fields > 0:
            reader.number()  # time
        if fields > 1:
            factor = reader.number()
        if fields > 2:
            reader.number()  # stream
        if fields > 3:
            stream_size = reader.number()
        if fields > 4:
            reserved = reader.number()
        count = reader.number() if fields > 5 else factor - stream_size
        if fields > 6:
            reader.number()  # time of a match
        if fields > 7:
            header = reader.number()
        for _ in range(8, fields):
            reader.number()
        if not 0 < count <= 256 - len(rows):
            raise ValueError(f"a row of {count} frame codes")
        for rest in range(count):
            if len(rows) == ord("N"):  # begins a start code, so it is no frame code
                rows.append(_Row(_INVALID, 0, 0, 0, 0))
            rows.append(_Row(flags, factor, stream_size + rest, header, reserved))
    return rows[:256], [0] + [reader.block() for _ in range(reader.number())]
