"""Facts read from packets, on hand-made packets and on noise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2rt.video.bitstream import packet_reader
from r2rt.video.packet_flags import CLOSED, DISPOSABLE, ENTRY, HIDDEN, UNSAFE

H264 = packet_reader("h264", None)
HEVC = packet_reader("hevc", None)
AVCC = bytes([1, 100, 0, 30, 0xFF, 0xE1])


def nals(*units: bytes) -> memoryview:
    return memoryview(b"".join(b"\0\0\1" + unit for unit in units))


# Payload 6 (recovery point), 1 byte: recovery_frame_cnt = 0 as ue(v), exact_match_flag, ...
EXACT = bytes([6, 6, 1, 0b1100_0100, 0x80])
INEXACT = bytes([6, 6, 1, 0b1000_0100, 0x80])
GRADUAL = bytes([6, 6, 1, 0b0001_1101, 0x80])
OTHER_SEI_FIRST = bytes([6, 5, 2, 0xAA, 0xBB, 6, 1, 0b1100_0100, 0x80])


@pytest.mark.parametrize(
    ("packet", "is_key", "flags"),
    [
        (nals(b"\x09\xf0", b"\x67abc", b"\x65abc"), True, ENTRY | CLOSED),
        (nals(b"\x41abc"), False, 0),
        (nals(b"\x01abc"), False, DISPOSABLE),
        (nals(EXACT, b"\x41abc"), True, ENTRY),
        (nals(OTHER_SEI_FIRST, b"\x41abc"), True, ENTRY),
        (nals(INEXACT, b"\x41abc"), True, 0),
        (nals(GRADUAL, b"\x41abc"), True, 0),
        (nals(b"\x41abc"), True, 0),
        (memoryview(b""), True, 0),
    ],
)
def test_h264(packet: memoryview, is_key: bool, flags: int) -> None:
    assert H264 is not None
    assert H264(packet, is_key) == flags


@pytest.mark.parametrize("length_size", [1, 2, 4])
def test_h264_with_length_prefixes(length_size: int) -> None:
    extradata = bytearray(AVCC)
    extradata[4] = 0xFC | length_size - 1
    reader = packet_reader("h264", bytes(extradata))
    assert reader is not None
    units = [b"\x09\xf0", b"\x65abc"]
    packet = b"".join(len(unit).to_bytes(length_size, "big") + unit for unit in units)
    assert reader(memoryview(packet), True) == ENTRY | CLOSED
    assert reader(memoryview(packet[:-1]), True) == 0


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        (0, DISPOSABLE),
        (1, 0),
        (8, DISPOSABLE),
        (9, 0),
        (19, ENTRY | CLOSED),
        (20, ENTRY | CLOSED),
        (21, ENTRY),
    ],
)
def test_hevc(kind: int, flags: int) -> None:
    assert HEVC is not None
    assert HEVC(nals(bytes([kind << 1, 1, 0x80])), True) == flags


def test_hevc_frames_that_take_back_earlier_ones_are_not_closed() -> None:
    assert HEVC is not None
    assert HEVC(nals(bytes([19 << 1, 1, 0xC0])), True) == ENTRY


@pytest.mark.parametrize(
    ("codec", "packet", "is_key", "flags"),
    [
        ("mpeg2video", b"\0\0\1\0\0\x08\0\0", True, ENTRY),
        ("mpeg2video", b"\0\0\1\0\0\x18\0\0", False, DISPOSABLE),
        ("mpeg4", b"\0\0\1\xb6\x10\0", True, ENTRY),
        ("mpeg4", b"\0\0\1\xb6\x90\0", False, DISPOSABLE),
        ("mpeg4", b"\0\0\1\xb6\x50\0\0\0\1\xb6\x90", False, UNSAFE),
        ("vp8", b"\x10", True, ENTRY | CLOSED),
        ("vp8", b"\x01", False, HIDDEN),
        ("vp9", b"\x82\x49\x83\x42\0", True, ENTRY | CLOSED),
        ("vp9", b"\x84\0", False, HIDDEN),
        ("vp9", b"\x86\0", False, 0),
        ("av1", b"\x12\0\x32\x02\x10\0", True, ENTRY | CLOSED),
        ("av1", b"\x12\0\x32\x02\x00\0", True, 0),
        ("mjpeg", b"\xff\xd8", True, ENTRY | CLOSED),
    ],
)
def test_other_codecs(codec: str, packet: bytes, is_key: bool, flags: int) -> None:
    reader = packet_reader(codec, None)
    assert reader is not None
    assert reader(memoryview(packet), is_key) == flags


def test_unknown_codecs_have_no_reader() -> None:
    assert packet_reader("theora", None) is None


@given(
    codec=st.sampled_from(["h264", "hevc", "mpeg2video", "mpeg4", "vp8", "vp9", "av1", "mjpeg"]),
    data=st.binary(max_size=80),
    extradata=st.one_of(st.none(), st.binary(max_size=30), st.just(AVCC)),
    is_key=st.booleans(),
)
def test_noise_breaks_nothing(
    codec: str, data: bytes, extradata: bytes | None, is_key: bool
) -> None:
    reader = packet_reader(codec, extradata)
    assert reader is not None
    assert 0 <= reader(memoryview(data), is_key) < 512
    assert 0 <= reader(memoryview(b"\0\0\1" + data), is_key) < 512
