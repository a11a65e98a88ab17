"""The packet index, over made-up packets: when it is usable, and what it says when it is not."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, cast

import av
import pytest

from r2rt.video.demux import Demuxer
from r2rt.video.index import PacketIndex, index_packets

HEVC_IDR, HEVC_TRAIL_N, HEVC_TRAIL_R = 19, 0, 1


def index(
    packets: Sequence[tuple[bytes, int | None, bool]],
    *,
    codec: str = "vp9",
    container: str = "matroska,webm",
    start_us: int | None = 0,
    decode_late: int = 0,
) -> PacketIndex:
    """Index packets given as (data, pts, is_keyframe), at 25 a second."""
    made = []
    for number, (data, pts, is_key) in enumerate(packets):
        packet = av.Packet(data)
        packet.pts, packet.dts, packet.is_keyframe = pts, number - decode_late, is_key
        made.append(packet)
    stream = SimpleNamespace(
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        guessed_rate=Fraction(25),
        codec_context=SimpleNamespace(codec=SimpleNamespace(canonical_name=codec), extradata=None),
    )
    demuxer: Any = SimpleNamespace(
        stream=stream,
        container=SimpleNamespace(format=SimpleNamespace(name=container), start_time=start_us),
        packets=lambda: iter(made),
        has_no_timestamps=False,
        leaps=0,
        leaps_closed=0,
    )
    return index_packets(cast("Demuxer", demuxer))


KEY, INTER, ALTREF = b"\x82\x49\x83\x42\0", b"\x86\0", b"\x84\0"


def hevc(kind: int, layer: int = 0) -> bytes:
    return b"\0\0\1" + bytes([kind << 1, layer + 1, 0x80, 0])


def test_a_plain_stream() -> None:
    found = index([(KEY, 0, True), (INTER, 1, False), (KEY, 2, True), (INTER, 3, False)])
    assert found.unusable is None
    assert found.pts.tolist() == [0, 1, 2, 3]
    assert found.entry.tolist() == found.closed.tolist() == [True, False, True, False]
    assert found.shown.all()
    assert (found.end_pts, found.frame_duration, found.start_pts) == (4, 1, 0)


def test_hidden_frames_need_no_time_and_are_not_shown() -> None:
    found = index([(KEY, 0, True), (ALTREF, None, False), (INTER, 1, False)])
    assert found.unusable is None
    assert found.shown.tolist() == [True, False, True]


def test_the_top_sub_layer_alone_is_disposable() -> None:
    units = [(HEVC_IDR, 0), (HEVC_TRAIL_N, 0), (HEVC_TRAIL_R, 1), (HEVC_TRAIL_N, 1)]
    packets = [(hevc(*unit), place, place == 0) for place, unit in enumerate(units)]
    # A picture that nothing in its own sub-layer refers to may serve the one above.
    assert index(packets, codec="hevc").disposable.tolist() == [False, False, False, True]
    assert index(packets[:2], codec="hevc").disposable.tolist() == [False, True]


@pytest.mark.parametrize(
    ("packets", "how", "reason"),
    [
        ([(b"x", 0, True)], {"codec": "theora"}, "dependencies of theora"),
        ([(KEY, 0, True), (INTER, None, False)], {}, "no presentation time"),
        ([(KEY, 0, True), (INTER, 0, False)], {}, "the same presentation time"),
        ([(KEY, 5, True), (INTER, 6, False), (KEY, 1, True)], {}, "run backwards"),
        (
            [(b"\0\0\1\x65aa", 0, True), (b"\0\0\1\x41aa", 1, False)],
            {"codec": "h264", "container": "avi", "decode_late": 1},
            "the container has no presentation times for h264",
        ),
        (
            [(b"\0\0\1\xb6\x50\0\0\0\1\xb6\x90", 0, True)],
            {"codec": "mpeg4"},
            "more than one frame",
        ),
    ],
)
def test_what_makes_it_unusable(
    packets: list[tuple[bytes, int | None, bool]], how: dict[str, Any], reason: str
) -> None:
    found = index(packets, **how)
    assert found.unusable is not None
    assert reason in found.unusable


def test_missing_times_are_guessed_for_the_length() -> None:
    found = index([(KEY, None, True), *[(INTER, None, False)] * 9])
    assert found.end_pts == 10


@pytest.mark.parametrize(("start_us", "pts"), [(None, 0), (40_000, 1), (60_000, 2), (-60_000, -2)])
def test_the_container_s_start_is_rounded_as_ffmpeg_does(start_us: int | None, pts: int) -> None:
    assert index([(KEY, 0, True)], start_us=start_us).start_pts == pts


def test_nothing_at_all() -> None:
    found = index([])
    assert len(found) == 0
    assert found.end_pts == 0
