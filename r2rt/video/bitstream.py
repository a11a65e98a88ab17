"""What a packet's first bytes tell about decoding, without decoding.

Four facts decide what may be skipped: whether decoding may begin at a packet and give every later
picture exactly (`ENTRY`), whether the decoder also forgets all before it there (`CLOSED`), whether
no other picture depends on it (`DISPOSABLE`), and whether it shows no picture of its own
(`HIDDEN`). Containers only flag keyframes, which is less: an H.264
keyframe may be the start of a gradual refresh. Each reader below takes facts from the codec's own
syntax and claims nothing where the syntax is damaged, which is safe: fewer packets are skipped.

Syntax: ITU-T H.264 7.3.1 and D.1.8, ITU-T H.265 7.3.1.2 and 7.4.2.2, ITU-T H.262 6.2.3,
ISO/IEC 14496-2 6.2.5, RFC 6386 9.1 (VP8), the VP9 bitstream specification 6.2 and annex B, the AV1
bitstream specification 5.3 and 5.9.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

__all__ = ["CLOSED", "DISPOSABLE", "ENTRY", "HIDDEN", "TEMPORAL_SHIFT", "UNSAFE", "packet_reader"]

ENTRY = 1
DISPOSABLE = 2
HIDDEN = 4
UNSAFE = 8  # something that skipping cannot cope with: everything must be decoded
TEMPORAL_SHIFT = 4  # bits 4 to 6 hold the temporal sub-layer (HEVC), 0 to 7
CLOSED = 128

# Every frame of these is a keyframe, or the container's flag means what it says.
FLAGGED_CODECS = frozenset(
    (
        "mjpeg",
        "png",
        "webp",
        "bmp",
        "ffv1",
        "prores",
        "dnxhd",
        "rawvideo",
        "huffyuv",
        "ffvhuff",
        "gif",
    )
)

PacketReader = Callable[[memoryview, bool], int]


def packet_reader(codec: str, extradata: bytes | None) -> PacketReader | None:
    """Return what reads (data, is_keyframe) of a codec's packets into flags; None if unknown.

    Args:
        codec: name of the codec, as in `av.Codec.canonical_name`.
        extradata: the codec's global headers, which tell how NAL units are delimited.
    """
    if codec in {"h264", "hevc"}:
        length_size = _nal_length_size(codec, extradata)
        flags = _h264_flags if codec == "h264" else _hevc_flags
        if length_size is None:
            return lambda data, key: flags(_start_code_nals(bytes(data)), key)
        return lambda data, key: flags(_prefixed_nals(data, length_size), key)
    if codec in FLAGGED_CODECS:
        return lambda _, key: ENTRY | CLOSED if key else 0
    return {
        "mpeg1video": _mpeg2_flags,
        "mpeg2video": _mpeg2_flags,
        "mpeg4": _mpeg4_flags,
        "vp8": _vp8_flags,
        "vp9": _vp9_flags,
        "av1": _av1_flags,
    }.get(codec)


def _nal_length_size(codec: str, extradata: bytes | None) -> int | None:
    """Return the bytes of a NAL unit's length prefix, or None where start codes delimit them."""
    if not extradata or extradata[0] != 1:
        return None
    position = 4 if codec == "h264" else 21
    return (extradata[position] & 3) + 1 if len(extradata) > position else None


def _prefixed_nals(data: memoryview, length_size: int) -> Iterator[memoryview]:
    position = 0
    while position + length_size < len(data):
        size = int.from_bytes(data[position : position + length_size], "big")
        position += length_size
        if size == 0 or position + size > len(data):
            return
        yield data[position : position + size]
        position += size


def _start_code_nals(data: bytes) -> Iterator[memoryview]:
    # A NAL unit runs to the next start code, but all that is read of one lies at its beginning, so
    # the picture data that make up most of a packet are never searched.
    view = memoryview(data)
    position = data.find(b"\0\0\1")
    while position >= 0 and position + 4 < len(data):
        yield view[position + 3 :]
        position = data.find(b"\0\0\1", position + 3)


def _h264_flags(nals: Iterator[memoryview], is_key: bool) -> int:
    recovers = False
    for nal in nals:
        kind = nal[0] & 31
        if kind == 5:
            return ENTRY | CLOSED
        if kind in {1, 2}:
            if nal[0] & 0x60 == 0:
                return DISPOSABLE
            return ENTRY if is_key and recovers else 0
        if kind == 6 and is_key:
            recovers = recovers or _is_exact_recovery_point(nal)
    return 0


def _is_exact_recovery_point(sei: memoryview) -> bool:
    """Whether a SEI NAL unit begins an open GOP, exact from this picture on in order of output."""
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


def _hevc_flags(nals: Iterator[memoryview], _: bool) -> int:
    for nal in nals:
        kind = (nal[0] >> 1) & 63
        layer = (nal[0] & 1) << 5 | nal[1] >> 3
        if kind > 31 or layer:
            continue
        if 16 <= kind <= 21:
            # IDR pictures, unless no_output_of_prior_pics_flag takes back what is not shown yet.
            keeps_prior = len(nal) > 2 and not nal[2] & 0x40
            return ENTRY | (CLOSED if kind in {19, 20} and keeps_prior else 0)
        temporal = max((nal[1] & 7) - 1, 0) << TEMPORAL_SHIFT
        # The even types below 16 are not referred to in their own sub-layer; the index looks at
        # whether a higher one exists.
        return temporal | (DISPOSABLE if kind < 16 and kind % 2 == 0 else 0)
    return 0


def _mpeg2_flags(data: memoryview, is_key: bool) -> int:
    content = bytes(data)
    position = content.find(b"\0\0\1\0")
    if position < 0 or position + 5 >= len(content):
        return 0
    kind = content[position + 5] >> 3 & 7
    if kind == 1:
        return ENTRY if is_key else 0
    return DISPOSABLE if kind == 3 else 0


def _mpeg4_flags(data: memoryview, is_key: bool) -> int:
    content = bytes(data)
    position = content.find(b"\0\0\1\xb6")
    if position < 0 or position + 4 >= len(content):
        return 0
    # Two pictures in a packet ("packed bitstream"): packets and pictures no longer correspond.
    if content.find(b"\0\0\1\xb6", position + 4) >= 0:
        return UNSAFE
    kind = content[position + 4] >> 6
    if kind == 0:
        return ENTRY if is_key else 0
    return DISPOSABLE if kind == 2 else 0


def _vp8_flags(data: memoryview, _: bool) -> int:
    if not len(data):
        return 0
    return (0 if data[0] & 1 else ENTRY | CLOSED) | (0 if data[0] & 0x10 else HIDDEN)


def _vp9_flags(data: memoryview, is_key: bool) -> int:
    if not len(data) or data[0] >> 6 != 2:
        return 0
    # After the marker and the profile: show_existing_frame, frame_type, show_frame, one bit each.
    shift = 3 if data[0] & 0x30 != 0x30 else 2
    if data[0] >> shift & 1:
        return 0
    entry = ENTRY | CLOSED if is_key and not data[0] >> (shift - 1) & 1 else 0
    is_superframe = data[-1] & 0xE0 == 0xC0
    shown = is_superframe or data[0] >> (shift - 2) & 1
    return entry | (0 if shown else HIDDEN)


def _av1_flags(data: memoryview, is_key: bool) -> int:
    position = 0
    while is_key and position < len(data):
        header = data[position]
        kind = header >> 3 & 15
        position += 2 if header & 4 else 1
        size = len(data) - position
        if header & 2:
            size = shift = 0
            while position < len(data):
                byte = data[position]
                position += 1
                size |= (byte & 127) << shift
                shift += 7
                if not byte & 128:
                    break
        if kind in {3, 6} and position < len(data):
            # show_existing_frame 0, frame_type KEY_FRAME, show_frame 1: all references are reset.
            return ENTRY | CLOSED if data[position] & 0xF0 == 0x10 else 0
        position += size
    return 0
