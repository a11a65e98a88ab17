"""Videos at an address: the same frames as from the file, from a part of its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from r2rt.errors import NotAVideoError, SourceNotFoundError
from r2rt.media.indexed_video import IndexedVideo
from r2rt.media.stills import stills
from r2rt.video import DecodeReport, open_source, remote
from r2rt.video.fingerprint import BLOCK_BYTES, BLOCKS
from r2rt.video.inspection import inspect_file
from r2rt.video.remote import RemoteReader, RemoteVideo
from tests.r2rt.ranges import RangeServer, running_ranges
from tests.r2rt.video.clips import write_video
from tests.r2rt.video.oracle import ffmpeg_clips, needs_ffmpeg

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

# A keyframe every two seconds, most bytes between them; the table of packets at the end.
_GROUPS = {
    "g": "50",
    "keyint_min": "50",
    "sc_threshold": "0",
    "qp": "4",
    "preset": "ultrafast",
}
_FPS = Fraction(1, 2)


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with running_ranges() as server:
        yield server


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("remote") / "video.mp4"
    return write_video(path, frames=400, size=(320, 240), options=_GROUPS)


def serve(server: RangeServer, path: Path) -> RemoteVideo:
    server.files[path.name] = path.read_bytes()
    return RemoteVideo(f"{server.url}/{path.name}")


@needs_ffmpeg
def test_exact_frames_are_those_of_the_ffmpeg_program(server: RangeServer, tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4", frames=130, options={"bf": "2"})
    with open_source(serve(server, path), fps=_FPS, image_size=32) as frames:
        found = [frame.pixels for frame in frames for _ in range(frame.count)]
    assert np.array_equal(found, ffmpeg_clips(path, _FPS))


def test_of_a_long_video_what_the_plan_needs_is_fetched(server: RangeServer, video: Path) -> None:
    here = open_source(video, fps=_FPS, image_size=32, sampling="nearest")
    there = open_source(serve(server, video), fps=_FPS, image_size=32, sampling="nearest")
    with here, there:
        for mine, other in zip(here, there, strict=True):
            assert np.array_equal(mine.pixels, other.pixels)
            assert (mine.clip_index, mine.time_s) == (other.clip_index, other.time_s)
        assert not there.report.departures.packets_lost
    assert there.info.fingerprint == here.info.fingerprint
    for_fingerprint = BLOCKS * BLOCK_BYTES
    assert server.sent - for_fingerprint < 0.5 * video.stat().st_size


def test_packets_have_the_same_times_and_entry_points(server: RangeServer, video: Path) -> None:
    here, there = inspect_file(video).index, inspect_file(serve(server, video)).index
    assert np.array_equal(here.pts, there.pts)
    assert np.array_equal(here.entry, there.entry)
    assert there.end_pts == here.end_pts


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_up_to_its_end_a_file_is_read_as_from_disk(
    server: RangeServer, tmp_path: Path, share: float
) -> None:
    # The table of packets comes first, and the last keyframe is small; or most of them are missing.
    path = write_video(
        tmp_path / "end.mp4",
        frames=151,
        size=(320, 240),
        options=_GROUPS | {"qp": "51"},
        muxer_options={"movflags": "faststart"},
    )
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])
    assert_read_alike(path, serve(server, path), Fraction(5))


def test_empty_samples_are_no_packets(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_NEAR_BYTES", 0)  # so that a small file has parts to leave out
    path = write_video(tmp_path / "empty.mov", codec="mjpeg", frames=100, pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    first_size = data.index(b"stsz") + 16
    for number in (30, 50):  # each takes over the next one's bytes
        place = first_size + 4 * number
        sizes = int.from_bytes(data[place : place + 4]), int.from_bytes(data[place + 4 : place + 8])
        data[place : place + 8] = sum(sizes).to_bytes(4) + bytes(4)
    path.write_bytes(data)
    assert_read_alike(path, serve(server, path), Fraction(2))


def assert_read_alike(here: Path, there: RemoteVideo, fps: Fraction) -> None:
    (mine, report), (others, other_report) = (_read(source, fps) for source in (here, there))
    assert np.array_equal(mine, others)
    assert report == other_report


def _read(
    source: Path | RemoteVideo, fps: Fraction
) -> tuple[list[NDArray[np.uint8]], DecodeReport]:
    with open_source(source, fps=fps, image_size=32) as frames:
        found = [frame.pixels for frame in frames for _ in range(frame.count)]
        report = frames.report
    # A file at an address is not read whole, so its structure is not checked.
    return found, replace(report, departures=replace(report.departures, broken_at_byte=None))


@needs_ffmpeg
def test_fragments_that_the_demuxer_has_not_seen_yet_are_read(
    server: RangeServer, tmp_path: Path
) -> None:
    # An index of all fragments at the beginning: the demuxer opens the first one alone.
    options = _GROUPS | {"qp": "30"}
    flags = {"movflags": "frag_keyframe+delay_moov+dash+global_sidx"}
    path = write_video(tmp_path / "dash.mp4", frames=250, options=options, muxer_options=flags)
    with open_source(serve(server, path), fps=_FPS, image_size=32) as frames:
        found = [frame.pixels for frame in frames for _ in range(frame.count)]
        assert not frames.report.departures.warnings
    assert np.array_equal(found, ffmpeg_clips(path, _FPS))


@pytest.mark.parametrize("suffix", ["mkv", "ts", "avi"])
def test_other_containers_are_read_from_their_beginning(
    server: RangeServer, tmp_path: Path, suffix: str
) -> None:
    path = write_video(tmp_path / f"video.{suffix}", frames=80)
    sources = [open_source(x, fps=_FPS, image_size=32) for x in (path, serve(server, path))]
    here, there = ([frame.pixels for frame in source] for source in sources)
    for source in sources:
        source.close()
    assert np.array_equal(here, there)


def test_what_is_not_needed_is_zeros(server: RangeServer) -> None:
    content = bytes(range(1, 251)) * 4000
    server.files["file"] = content
    reader = RemoteReader(RemoteVideo(f"{server.url}/file"))
    needed = [(500_000, 500_100), (10, 20), (15, 30), (999_990, 1_000_000)]
    reader.need(needed, before=len(content))
    found = reader.read()
    expected = bytearray(len(content))
    for start, end in ((10, 30), (500_000, 500_100), (999_990, 1_000_000)):
        expected[start:end] = content[start:end]
    assert found == bytes(expected)
    assert server.sent == 130
    reader.seek(-5, 2)
    assert reader.read(10) == content[-5:]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_several_requests_are_under_way_at_once(
    server: RangeServer, tmp_path: Path, suffix: str
) -> None:
    options = _GROUPS | {"g": "10", "keyint_min": "10"}
    path = write_video(tmp_path / f"video.{suffix}", frames=200, size=(320, 240), options=options)
    server.wait_s = 0.05
    with open_source(serve(server, path), fps=Fraction(5, 2), image_size=32) as source:
        frames = sum(frame.count for frame in source)
    assert frames == 20
    assert 2 < server.at_once <= 8


def test_a_file_that_is_read_on_is_fetched_once(server: RangeServer) -> None:
    content = np.random.default_rng(0).bytes(12_345_678)
    server.files["file"] = content
    reader = RemoteReader(RemoteVideo(f"{server.url}/file"), block_bytes=100_000)
    found = b"".join(iter(lambda: reader.read(33_333), b""))
    assert found == content
    assert server.sent == len(content)
    # One who looks here and there gets what he asks for, and nothing that follows.
    server.sent = 0
    reader = RemoteReader(RemoteVideo(f"{server.url}/file"), block_bytes=100_000)
    for place in (9_000_000, 2_000_000, 5_000_000):
        reader.seek(place)
        assert reader.read(10) == content[place : place + 10]
    assert server.sent == 300_000


def test_of_a_server_that_gives_whole_files_no_whole_file_is_read(server: RangeServer) -> None:
    server.ranges = False
    server.files["large.mp4"] = bytes(200_000_000)
    with pytest.raises(SourceNotFoundError, match="gives whole files and no parts of them"):
        open_source(RemoteVideo(f"{server.url}/large.mp4"), fps=_FPS, image_size=32)
    assert server.sent < 50_000_000


def test_a_server_that_fails_on_the_way(server: RangeServer, video: Path) -> None:
    with open_source(serve(server, video), fps=_FPS, image_size=32) as source:
        frames = iter(source)
        next(frames)
        server.files.clear()
        with pytest.raises(SourceNotFoundError, match=r"video\.mp4: cannot be read"):
            list(frames)


def test_a_playlist_at_an_address_opens_no_file_here(
    server: RangeServer, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(video.parent)
    server.files["list.mp4"] = f"ffconcat version 1.0\nfile {video.name}\n".encode()
    with pytest.raises(NotAVideoError):
        open_source(RemoteVideo(f"{server.url}/list.mp4"), fps=_FPS, image_size=32)


def test_addresses_without_a_video(server: RangeServer) -> None:
    server.files["text.mp4"] = b"not a video at all, but some text\n" * 100
    with pytest.raises(SourceNotFoundError, match="nothing"):
        open_source(RemoteVideo(f"{server.url}/nothing.mp4"), fps=_FPS, image_size=32)
    with pytest.raises(NotAVideoError, match=r"text\.mp4: not a video"):
        open_source(RemoteVideo(f"{server.url}/text.mp4"), fps=_FPS, image_size=32)
    with pytest.raises(SourceNotFoundError, match="strange"):
        RemoteVideo("strange://host/video.mp4")


@pytest.mark.parametrize("fault", ["absent", "refused", "unknown kind", "lost on the way"])
def test_errors_do_not_show_what_an_address_keeps_secret(
    server: RangeServer, video: Path, fault: str
) -> None:
    host = server.url.replace("http://", "http://anne:secret@")
    name = f"{fault}.mp4?key=secret".replace(" ", "%20")
    if fault == "refused":
        host = "http://anne:secret@127.0.0.1:9"
    if fault == "unknown kind":
        host = "strange://anne:secret@host"
    server.files["lost%20on%20the%20way.mp4?key=secret"] = video.read_bytes()
    with pytest.raises(SourceNotFoundError) as caught:  # noqa: PT012
        for _ in open_source(RemoteVideo(f"{host}/{name}"), fps=_FPS, image_size=32):
            server.files.clear()
    assert "secret" not in str(caught.value)
    assert fault.replace(" ", "%20") in str(caught.value)
    unread = fault in ("refused", "lost on the way")
    assert ("cannot be read" in str(caught.value)) == unread


def test_addresses_that_differ_in_their_query_are_different_videos(
    server: RangeServer, tmp_path: Path
) -> None:
    paths = [write_video(tmp_path / f"{frames}.ts", frames=frames) for frames in (20, 30)]
    largest = max(path.stat().st_size for path in paths)
    for number, path in enumerate(paths):  # of one size
        server.files[f"video.ts?number={number}"] = path.read_bytes().ljust(largest, b"\0")
    videos = [RemoteVideo(f"{server.url}/video.ts?number={number}") for number in (0, 1)]
    assert [len(inspect_file(video).index) for video in videos] == [20, 30]


def test_a_frame_of_a_long_video_costs_a_part_of_its_bytes(
    server: RangeServer, video: Path, tmp_path: Path
) -> None:
    inspect_file(there := serve(server, video))
    before, size = server.sent, video.stat().st_size
    with IndexedVideo(video) as mine, IndexedVideo(there) as other:
        assert other.path.name == "video.mp4"
        [(_, expected)], [(_, found)] = (stills(item, [9.1], (320, 240)) for item in (mine, other))
    assert found.tobytes() == expected.tobytes()
    assert before < 0.5 * size
    assert server.sent - before < 0.3 * size
