"""Files that lack a stretch of bytes in the middle: the loss is reported."""

from __future__ import annotations

import contextlib
import os
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import pytest

from r2rt.errors import NotAVideoError
from r2rt.video import open_source, structure
from r2rt.video.departures import Departures
from r2rt.video.file_bytes import FileBytes
from r2rt.video.structure import broken_at
from tests.r2rt.video.conftest import VideoMaker

FRAMES, RATE = 75, Fraction(5)  # several clusters of five seconds
NUT_BEGINS = b"nut/multimedia container\0" + bytes.fromhex("4e4d7a561f5f04ad")
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
VP8: dict[str, Any] = {
    "codec": "libvpx",
    "options": {"g": "10", "deadline": "realtime", "cpu-used": "8"},
}
H264: dict[str, Any] = {"options": {"g": "10", "preset": "ultrafast"}}
CONTAINERS: dict[str, dict[str, Any]] = {
    "h264.mkv": H264,
    "live.mkv": H264 | {"muxer_options": {"live": "1"}},  # sizes of clusters are unknown
    "vp8.webm": VP8,
    "vp8.ogg": VP8,
    "h264.flv": H264,
    "flv1.flv": {"codec": "flv1"},
    "fragments.mp4": H264 | {"muxer_options": FRAGMENTS},
    "h264.ts": H264,
    "h264.avi": H264,
    "mpeg4.avi": {"codec": "mpeg4"},
    "wmv.asf": {"codec": "msmpeg4"},
    "h264.nut": H264,
    "vp8.nut": VP8,
}


@pytest.fixture(params=CONTAINERS)
def video(request: pytest.FixtureRequest, make_video: VideoMaker) -> Path:
    how = CONTAINERS[request.param]
    return make_video(f"cut {request.param}", frames=FRAMES, rate=RATE, **how)


def departures(path: Path) -> Departures:
    with open_source(path, fps=Fraction(1), image_size=32) as source:
        for _ in source:
            pass
        return source.report.departures


def decodable(path: Path) -> int:
    """How many frames FFmpeg decodes, damage passed over."""
    frames = 0
    with av.open(str(path)) as container:
        try:
            for packet in container.demux(video=0):
                with contextlib.suppress(av.error.FFmpegError):
                    frames += len(packet.decode())
        except av.error.FFmpegError:
            return frames  # nothing more can be read
    return frames


def without(data: bytes, start: int, size: int, *, zeros: bool) -> bytes:
    return data[:start] + bytes(size * zeros) + data[start + size :]


@pytest.mark.slow
def test_a_whole_file_is_not_suspected(video: Path) -> None:
    assert departures(video).warnings == ()


@pytest.mark.parametrize("zeros", [False, True])
def test_a_stretch_that_is_missing_is_reported(video: Path, zeros: bool, tmp_path: Path) -> None:
    if zeros and video.suffix == ".asf":
        pytest.skip("zeros inside one of its packets leave its structure whole")
    data = video.read_bytes()
    hurt = tmp_path / video.name
    rng = random.Random(f"{video.name} {zeros}")
    lossy = 0
    for _ in range(4):
        size = int(len(data) * rng.uniform(0.1, 0.4))
        start = rng.randrange(1500, len(data) - size)
        hurt.write_bytes(without(data, start, size, zeros=zeros))
        if decodable(hurt) < 0.95 * FRAMES:
            lossy += 1
            assert departures(hurt).warnings, (start, size)
    assert lossy


@pytest.mark.parametrize(
    "name", ["h264.mkv", "live.mkv", "vp8.webm", "vp8.ogg", "h264.flv", "vp8.nut"]
)
def test_the_place_and_the_missing_time_are_those_of_the_damage(
    name: str, make_video: VideoMaker, tmp_path: Path
) -> None:
    path = make_video(f"cut {name}", frames=FRAMES, rate=RATE, **CONTAINERS[name])
    with av.open(str(path)) as container:
        format_name = container.format.name
        packets = [packet for packet in container.demux(video=0) if packet.size]
        places = [packet.pos or 0 for packet in packets]
    first, last = 20, 45
    hurt = tmp_path / name
    hurt.write_bytes(without(path.read_bytes(), places[first] - 20, 500, zeros=True))
    found = broken_at(hurt, format_name)
    assert found is not None
    # Pages of Ogg hold several packets.
    assert places[first - 20] <= found <= places[first]

    hurt.write_bytes(
        without(path.read_bytes(), places[first] + 30, places[last] - places[first], zeros=False)
    )
    with av.open(str(hurt)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
        base = container.streams.video[0].time_base
    assert base is not None
    missing_s = (max(times) - min(times)) * base - (len(times) - 1) / RATE
    assert departures(hurt).missing_s == pytest.approx(float(missing_s), abs=0.25)


def test_one_flipped_bit_costs_a_page_of_ogg(make_video: VideoMaker, tmp_path: Path) -> None:
    data = bytearray(make_video("cut vp8.ogg", frames=FRAMES, rate=RATE, **VP8).read_bytes())
    place = len(data) // 2
    data[place] ^= 1
    hurt = tmp_path / "hurt.ogg"
    hurt.write_bytes(data)
    assert decodable(hurt) < FRAMES  # FFmpeg leaves the page out
    assert broken_at(hurt, "ogg") == data.rfind(b"OggS", 0, place)


def test_two_files_in_one_and_what_follows_are_no_damage(
    make_video: VideoMaker, tmp_path: Path
) -> None:
    data = make_video("cut h264.mkv", frames=FRAMES, rate=RATE, **H264).read_bytes()
    both = tmp_path / "both.mkv"
    for content in (data + data, data + b"something else", data + bytes(1000)):
        both.write_bytes(content)
        assert broken_at(both, "matroska,webm") is None
    both.write_bytes(data[:-1])
    assert broken_at(both, "matroska,webm") == pytest.approx(len(data), abs=2000)


@pytest.mark.parametrize("first", ["moov", "mdat"])
def test_what_cameras_write_after_an_mp4_is_no_damage(
    first: str, make_video: VideoMaker, tmp_path: Path
) -> None:
    flags = {"movflags": "+faststart"} if first == "moov" else {}
    whole = make_video(f"{first} first.mp4", frames=FRAMES, rate=RATE, muxer_options=flags)
    data = whole.read_bytes()
    path = tmp_path / "noted.mp4"
    for content in (data + b"notes without a box", data + bytes(50) + b"notes"):
        path.write_bytes(content)
        assert departures(path).warnings == ()
    path.write_bytes(data[:-1])
    assert broken_at(path, "mov,mp4") == data.index(b"mdat" if first == "moov" else b"moov") - 4


def test_zeros_at_the_end_are_part_of_a_whole_mp4_alone(
    make_video: VideoMaker, tmp_path: Path
) -> None:
    whole = make_video("zeros.mp4", frames=FRAMES, rate=RATE).read_bytes()
    path = tmp_path / "zeros.mp4"
    path.write_bytes(whole + bytes(3 << 20))
    assert broken_at(path, "mov,mp4") is None
    begin = whole.index(b"moov") - 4
    path.write_bytes(whole[:begin] + bytes(3 << 20))
    assert broken_at(path, "mov,mp4") is None
    path.write_bytes(whole[:begin] + bytes(3 << 20) + b"\1")
    assert broken_at(path, "mov,mp4") == begin


def test_a_file_that_becomes_shorter_meanwhile_has_no_known_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "short.nut"
    path.write_bytes(bytes(100_000))

    def walk(data: FileBytes) -> int:
        os.truncate(path, 10)
        return data[90_000]

    monkeypatch.setitem(structure._WALKS, "nut", walk)
    assert broken_at(path, "nut") is None


def test_bytes_of_a_file_are_those_of_a_buffer(tmp_path: Path) -> None:
    rng = random.Random(0)
    content = rng.randbytes(30_000) + bytes(2 << 20) + rng.randbytes(30_000)
    path = tmp_path / "bytes"
    path.write_bytes(content)
    size = len(content)
    with path.open("rb", buffering=0) as file:
        data = FileBytes(file)
        assert len(data) == size
        for _ in range(100):
            place = rng.choice((rng.randrange(30_000), size - rng.randrange(1, 30_000)))
            assert data[place] == content[place]
            stop = place + rng.choice((0, 3, 5000, 70_000))
            assert data[place:stop] == content[place:stop]
            sought = content[place : place + 4]
            assert data.find(sought, 0, size) == content.find(sought)
            assert data.find(sought, 0, place + 3) == content.find(sought, 0, place + 3)
        assert data[size : size + 9] == data[size + 5 : size + 9] == b""
        with pytest.raises(IndexError):
            data[size]
        assert not data.is_zero_from(0)
        assert not data.is_zero_from(30_000)


@pytest.mark.parametrize("name", ["mkv", "ogg", "flv", "asf", "mp4", "nut"])
def test_headers_alone_and_noise_are_walked_to_their_end(name: str, tmp_path: Path) -> None:
    formats = {"mkv": "matroska,webm", "mp4": "mov,mp4"}
    path = tmp_path / f"noise.{name}"
    for seed in range(200):
        rng = random.Random(seed)
        path.write_bytes(
            rng.choice((b"", b"OggS\0", b"FLV\1", NUT_BEGINS)) + rng.randbytes(rng.randrange(60))
        )
        found = broken_at(path, formats.get(name, name))
        assert found is None or 0 <= found <= path.stat().st_size
    with pytest.raises(NotAVideoError):
        departures(path)
