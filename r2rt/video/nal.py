"""NAL units of H.264 and HEVC: where they begin and end, and the bits in them."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Bits", "prefix_size", "prefixed_nals", "start_code_nals"]


def prefix_size(codec: str, extradata: bytes | None) -> int | None:
    """Return the bytes of a NAL unit's length prefix, or None where start codes delimit them."""
    if not extradata or extradata[0] != 1:
        return None
    position = 4 if codec == "h264" else 21
    return (extradata[position] & 3) + 1 if len(extradata) > position else None


def prefixed_nals(data: memoryview, length_size: int) -> Iterator[memoryview]:
    """Yield the NAL units of a packet, each after its length; stop where that is damaged."""
    position = 0
    while position + length_size < len(data):
        size = int.from_bytes(data[position : position + length_size], "big")
        position += length_size
        if size == 0 or position + size > len(data):
            return
        yield data[position : position + size]
        position += size


def start_code_nals(data: bytes) -> Iterator[memoryview]:
    """Yield the NAL units of a packet, each from its first byte to the end of the packet."""
    # A NAL unit runs to the next start code, but all that is read of one lies at its beginning, so
    # the picture data that make up most of a packet are never searched.
    view = memoryview(data)
    position = data.find(b"\0\0\1")
    while position >= 0 and position + 4 < len(data):
        yield view[position + 3 :]
        position = data.find(b"\0\0\1", position + 3)


class Bits:
    """The bits of a NAL unit's payload, without emulation prevention.

    Args:
        payload: the bytes after the NAL unit's header; no more than 512 are read.
    """

    def __init__(self, payload: memoryview) -> None:
        content = bytes(payload[:512]).replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(content, "big")
        self._left = 8 * len(content)

    def take(self, count: int) -> int:
        """Return the next bits as a number.

        Raises:
            EOFError: there are not so many.
        """
        if count > self._left:
            raise EOFError
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def exp_golomb(self) -> int:
        """Return the next number, coded as ue(v).

        Raises:
            EOFError: it is cut off, or has more than 32 bits.
        """
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise EOFError
        return (1 << zeros) - 1 + self.take(zeros)
