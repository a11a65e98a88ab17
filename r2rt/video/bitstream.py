"""What a packet's first bytes say about decoding, without decoding.

Five facts decide what may be skipped (`r2rt.video.packet_flags`): whether decoding may begin at a
packet and give every later frame exactly (`ENTRY`), whether the decoder also forgets all before it
there (`CLOSED`), whether no other frame depends on it (`DISPOSABLE`), whether it shows no frame of
its own (`HIDDEN`), and whether it holds one field only (`FIELD`). Containers only flag keyframes,
which is less: an H.264 keyframe may be the start of a gradual refresh. Each reader takes facts
from the codec's own syntax and claims nothing where the syntax is damaged, which is safe: fewer
packets are skipped.

Syntax: ITU-T H.265 7.3.1.2 and 7.4.2.2, ITU-T H.262 6.2.3, ISO/IEC 14496-2 6.2.5, RFC 6386 9.1
(VP8), the VP9 bitstream specification 6.2 and annex B, the AV1 bitstream specification 5.3 and
5.9.2. For H.264 see `r2rt.video.h264`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from r2rt.video.h264 import H264Reader
from r2rt.video.nal import prefix_size, prefixed_nals, start_code_nals
from r2rt.video.packet_flags import CLOSED, DISPOSABLE, ENTRY, HIDDEN, TEMPORAL_SHIFT, UNSAFE

__all__ = ["packet_reader"]

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
        extradata: the codec's global headers, which say how NAL units are delimited.
    """
    if codec == "h264":
        return H264Reader(extradata)
    if codec == "hevc":
        length_size = prefix_size(codec, extradata)
        if length_size is None:
            return lambda data, _: _hevc_flags(start_code_nals(bytes(data)))
        return lambda data, _: _hevc_flags(prefixed_nals(data, length_size))
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


def _hevc_flags(nals: Iterator[memoryview]) -> int:
    for nal in nals:
        if len(nal) < 2:
            continue
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
