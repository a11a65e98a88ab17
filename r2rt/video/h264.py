"""H.264: what its packets say about decoding, and which of them hold a single field.

Syntax: ITU-T H.264 7.3.2.1 (sequence and picture parameter sets), 7.3.3 (slice header), D.1.8
(recovery point), ISO/IEC 14496-15 5.3.3 (avcC).
"""

from __future__ import annotations

from collections.abc import Iterator

from r2rt.video.nal import Bits, prefix_size, prefixed_nals, start_code_nals
from r2rt.video.packet_flags import CLOSED, DISPOSABLE, ENTRY, FIELD

__all__ = ["H264Reader"]

# Profiles whose sequence parameter sets contain the chroma format.
_HIGH_PROFILES = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))
_SLICES = frozenset((1, 2, 5))


class H264Reader:
    """Reads packets, in decoding order, into flags.

    Args:
        extradata: the codec's global headers: avcC, or parameter sets after start codes.
    """

    def __init__(self, extradata: bytes | None) -> None:
        # Of parameter sets that allow fields: bits of frame_num, and whether planes are separate.
        self._sps: dict[int, tuple[int, bool]] = {}
        self._pps: dict[int, int] = {}
        self._prefix = prefix_size("h264", extradata)
        if extradata and self._prefix is not None:
            self._read_parameters(_avcc_nals(extradata))
        elif extradata:
            self._read_parameters(start_code_nals(extradata))

    def __call__(self, data: memoryview, is_key: bool) -> int:
        """Return the flags of a packet."""
        flags: int | None = None
        recovers = False
        parities: set[int] = set()
        for nal in self._nals(data):
            kind = nal[0] & 31
            if kind in {7, 8}:
                self._read_parameters(iter((nal,)))
            elif kind == 6 and is_key and flags is None:
                recovers = recovers or _is_exact_recovery_point(nal)
            elif kind in _SLICES:
                if flags is None:
                    flags = _slice_flags(nal, is_key and recovers)
                parity = self._parity(nal) if self._sps else None
                if parity is None:
                    return flags
                parities.add(parity)
                if len(parities) == 2:
                    return flags
        return (flags or 0) | (FIELD if parities else 0)

    def _nals(self, data: memoryview) -> Iterator[memoryview]:
        if self._prefix is None:
            return start_code_nals(bytes(data))
        return prefixed_nals(data, self._prefix)

    def _read_parameters(self, nals: Iterator[memoryview]) -> None:
        for nal in nals:
            bits = Bits(nal[1:])
            try:
                if nal[0] & 31 == 7:
                    self._read_sps(bits)
                elif nal[0] & 31 == 8:
                    number = bits.exp_golomb()
                    self._pps[number] = bits.exp_golomb()
            except EOFError:
                continue

    def _read_sps(self, bits: Bits) -> None:
        profile = bits.take(8)
        bits.take(16)  # constraints and level
        number = bits.exp_golomb()
        self._sps.pop(number, None)
        separate_planes = False
        if profile in _HIGH_PROFILES:
            chroma = bits.exp_golomb()
            separate_planes = chroma == 3 and bool(bits.take(1))
            bits.exp_golomb()  # bit depth of luma
            bits.exp_golomb()  # and of chroma
            bits.take(1)
            if bits.take(1):
                _skip_scaling_lists(bits, 8 if chroma != 3 else 12)
        frame_num_bits = bits.exp_golomb() + 4
        order_kind = bits.exp_golomb()
        if order_kind == 0:
            bits.exp_golomb()
        elif order_kind == 1:
            bits.take(1)
            bits.exp_golomb()  # signed, but only its length matters
            bits.exp_golomb()
            for _ in range(min(bits.exp_golomb(), 255)):
                bits.exp_golomb()
        bits.exp_golomb()  # reference frames
        bits.take(1)
        bits.exp_golomb()  # width
        bits.exp_golomb()  # height
        frames_only = bits.take(1)
        if not frames_only:
            self._sps[number] = (frame_num_bits, separate_planes)

    def _parity(self, nal: memoryview) -> int | None:
        """Return 0 for a slice of a top field, 1 for a bottom one; None for one of a frame."""
        bits = Bits(nal[1:64])
        try:
            bits.exp_golomb()  # first macroblock
            bits.exp_golomb()  # slice type
            found = self._sps.get(self._pps.get(bits.exp_golomb(), -1))
            if found is None:
                return None
            frame_num_bits, separate_planes = found
            bits.take(frame_num_bits + 2 * separate_planes)
            return bits.take(1) if bits.take(1) else None
        except EOFError:
            return None


def _slice_flags(nal: memoryview, recovers: bool) -> int:
    if nal[0] & 31 == 5:
        return ENTRY | CLOSED
    if nal[0] & 0x60 == 0:
        return DISPOSABLE
    return ENTRY if recovers else 0


def _avcc_nals(extradata: bytes) -> Iterator[memoryview]:
    """Yield the parameter sets of an avcC box."""
    view = memoryview(extradata)
    position = 5
    for mask in (31, 255):
        if position >= len(view):
            return
        count = view[position] & mask
        position += 1
        for _ in range(count):
            size = int.from_bytes(view[position : position + 2], "big")
            position += 2
            if not size or position + size > len(view):
                return
            yield view[position : position + size]
            position += size


def _skip_scaling_lists(bits: Bits, count: int) -> None:
    for number in range(count):
        if not bits.take(1):
            continue
        last = scale = 8
        for _ in range(16 if number < 6 else 64):
            if scale:
                coded = bits.exp_golomb()
                delta = (coded + 1) // 2 if coded % 2 else -(coded // 2)
                scale = (last + delta) % 256
            last = scale or last


def _is_exact_recovery_point(sei: memoryview) -> bool:
    """Whether a SEI NAL unit begins an open GOP, exact from this frame on in order of output."""
    payload = bytes(sei[1:256]).replace(b"\0\0\3", b"\0\0")
    position = 0
    while position + 2 < len(payload) and payload[position] != 0x80:
        kind = size = 0
        while position < len(payload) and payload[position] == 255:
            kind += 255
            position += 1
        kind += payload[position] if position < len(payload) else 0
        position += 1
        while position < len(payload) and payload[position] == 255:
            size += 255
            position += 1
        size += payload[position] if position < len(payload) else 0
        position += 1
        if kind == 6 and position < len(payload):
            # ue(v) 0 is the bit 1: no frame to wait for; the next bit is exact_match_flag.
            return payload[position] & 0xC0 == 0xC0
        position += size
    return False
