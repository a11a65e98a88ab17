"""Opening sources: what they report, parts, folders, arrays, and errors that name the problem."""

from __future__ import annotations

import errno
import inspect
import os
import time
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import r2rt.video
import r2rt.video.file
from r2rt.errors import (
    NoFramesError,
    NotAVideoError,
    NoVideoStreamError,
    QueryError,
    SourceNotFoundError,
)
from r2rt.video import ClipFrame, open_source
from r2rt.video.inspection import inspect_file
from r2rt.video.still import read_image
from tests.r2rt.permissions import permitting
from tests.r2rt.video.clips import numbered_picture
from tests.r2rt.video.conftest import VideoMaker

GOPS = {"x264-params": "keyint=25:min-keyint=25:scenecut=0"}


def read(source: object, fps: Fraction = Fraction(1), **how: object) -> list[ClipFrame]:
    with open_source(source, fps=fps, image_size=32, **how) as opened:  # type: ignore[arg-type]
        return list(opened)


def test_public_names() -> None:
    assert sorted(r2rt.video.__all__) == [
        "ClipClock", "ClipFrame", "ClipSelector", "DECODERS", "DecodeReport", "Decoder",
        "Departures", "FramePreparer", "FrameSource", "PlanCost", "Sampling", "Selection",
        "SourceInfo", "open_source", "prepare_frame",
    ]  # fmt: skip
    assert all(hasattr(r2rt.video, name) for name in r2rt.video.__all__)
    assert list(inspect.signature(open_source).parameters) == [
        "source", "fps", "image_size", "sampling", "tolerance_s", "start_s", "end_s", "source_fps",
        "threads", "decoder", "video_track",
    ]  # fmt: skip


def test_what_a_video_reports(make_video: VideoMaker) -> None:
    path = make_video("reported.mp4", frames=100, options=GOPS)
    with open_source(str(path), fps=Fraction(1, 2), image_size=32) as source:
        info = source.info
        assert (info.name, info.kind, info.codec) == (str(path), "video", "h264")
        assert (info.duration_s, info.start_s) == (4.0, 0.0)
        assert (info.width, info.height, info.frame_rate) == (96, 64, Fraction(25))
        assert (source.fps, source.num_clips) == (Fraction(1, 2), 2)
        assert source.cost is not None
        assert source.cost.total_frames == 100


def test_iterating_again_reads_again(make_video: VideoMaker) -> None:
    path = make_video("reported.mp4", frames=100, options=GOPS)
    with open_source(path, fps=Fraction(1), image_size=32) as source:
        first, second = list(source), list(source)
        assert source.report.clips == 4
    assert [a.time_s for a in first] == [b.time_s for b in second]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, second, strict=True))


def test_closing_ends_an_iteration(make_video: VideoMaker) -> None:
    source = open_source(make_video("reported.mp4"), fps=Fraction(25), image_size=32)
    iterator = iter(source)
    next(iterator)
    source.close()
    assert list(iterator) == []
    source.close()


@pytest.mark.parametrize("sampling", ["exact", "nearest"])
def test_a_part_is_what_the_cut_would_be(sampling: str, make_video: VideoMaker) -> None:
    path = make_video("reported.mp4", frames=100, options=GOPS)
    with open_source(
        path,
        fps=Fraction(2),
        image_size=32,
        sampling=sampling,  # type: ignore[arg-type]
        start_s=1.1,
        end_s=2.7,
    ) as source:
        frames = list(source)
        assert source.info.start_s == pytest.approx(1.1, abs=1e-4)
        assert source.info.duration_s == pytest.approx(1.6, abs=1e-4)
        assert source.num_clips == 3
    assert sum(frame.count for frame in frames) == 3
    for frame in frames:
        assert 0 <= frame.time_s < 1.6
        assert frame.clip_index / 2 <= frame.time_s < (frame.clip_index + 1) / 2
    if sampling == "exact":
        # 1.1 s lies between two pictures: the part begins with the one at 1.12 s.
        times = [round((frame.time_s + 1.1) * 25) for frame in frames]
        assert times == [33, 46, 58]


def test_an_end_beyond_the_end_is_the_end(make_video: VideoMaker) -> None:
    path = make_video("reported.mp4", frames=100, options=GOPS)
    with open_source(path, fps=Fraction(1), image_size=32, end_s=99.0) as source:
        assert source.info.duration_s == 4.0
        assert source.num_clips == 4


def test_a_start_beyond_the_end_holds_nothing(make_video: VideoMaker) -> None:
    path = make_video("reported.mp4", frames=100, options=GOPS)
    with pytest.raises(NoFramesError, match=r"lasts 4\.000 s"):
        read(path, start_s=4.0)


@pytest.mark.parametrize(
    "part",
    [
        {"start_s": -1.0},
        {"end_s": -1.0},
        {"end_s": 0.0},
        {"start_s": 2.0, "end_s": 1.0},
        {"start_s": 2.0, "end_s": 2.0},
        {"start_s": float("nan")},
        {"end_s": float("inf")},
    ],
)
def test_parts_that_make_no_sense(part: dict[str, Any], make_video: VideoMaker) -> None:
    with pytest.raises(QueryError, match="expected"):
        read(make_video("reported.mp4", frames=100, options=GOPS), **part)


@pytest.mark.parametrize(
    "wrong",
    [
        {"fps": Fraction(0)},
        {"fps": Fraction(-1)},
        {"image_size": 0},
        {"sampling": "fast"},
        {"threads": 0},
        {"source_fps": 5},
    ],
)
def test_arguments_that_make_no_sense(wrong: dict[str, Any], make_video: VideoMaker) -> None:
    arguments: dict[str, Any] = {"fps": Fraction(1), "image_size": 32, **wrong}
    with pytest.raises(QueryError):
        open_source(make_video("reported.mp4"), **arguments)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no such file or folder"):
        read(tmp_path / "none.mp4")


@pytest.mark.parametrize("reader", [read, inspect_file])
def test_a_name_that_the_system_refuses(reader: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="cannot be read: File name too long"):
        reader(tmp_path / f"{'long' * 100}.mp4")


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(NotAVideoError, match="empty"):
        read(tmp_path / "empty.mp4")


@pytest.mark.parametrize(
    "name", ["notes.txt", "notes.mp4", "page.html", "list.m3u8", "cut.ffconcat"]
)
def test_text(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("ffconcat version 1.0\nfile reported.mp4\n" * 40)
    with pytest.raises(NotAVideoError):
        read(tmp_path / name)


def test_a_playlist_opens_nothing_outside_the_machine(tmp_path: Path) -> None:
    playlist = tmp_path / "far.m3u8"
    playlist.write_text("#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises((NotAVideoError, NoVideoStreamError)):
        read(playlist)


def test_a_playlist_shows_what_its_files_hold_now(make_video: VideoMaker, tmp_path: Path) -> None:
    playlist, segment = tmp_path / "list.ffconcat", tmp_path / "segment.mp4"
    playlist.write_text("ffconcat version 1.0\nfile segment.mp4\n")
    for frames in (50, 100):
        whole = make_video(f"{frames} frames.mp4", frames=frames, options=GOPS)
        segment.write_bytes(whole.read_bytes())
        assert len(read(playlist)) == frames // 25


def test_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16_000))
    for track in (None, 1):
        with pytest.raises(NoVideoStreamError, match="streams: audio"):
            open_source(path, fps=Fraction(1), image_size=32, video_track=track)


def test_unreadable(make_video: VideoMaker, tmp_path: Path) -> None:
    path = tmp_path / "locked.mp4"
    path.write_bytes(make_video("reported.mp4").read_bytes())
    with permitting(path, 0), pytest.raises(SourceNotFoundError, match="cannot be read"):
        read(path)


def test_a_disk_that_fails_once_the_packets_are_read(
    make_video: VideoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = make_video("reported.mp4", frames=100, options=GOPS)
    monkeypatch.setattr(r2rt.video.file, "fingerprint_file", fails)
    with pytest.raises(SourceNotFoundError, match=r"reported\.mp4: cannot be read: Input/output"):
        read(path)


def test_names_that_look_like_protocols(make_video: VideoMaker, tmp_path: Path) -> None:
    path = tmp_path / "http:a%03d.mp4"
    path.write_bytes(make_video("reported.mp4", frames=100, options=GOPS).read_bytes())
    assert len(read(path)) == 4


def save_image(path: Path, number: int) -> None:
    picture = av.VideoFrame.from_ndarray(numbered_picture(number), format="rgb24")
    codec = {"png": "png", "jpg": "mjpeg", "jpeg": "mjpeg", "bmp": "bmp", "webp": "libwebp"}
    pix_fmt = {"png": "rgb24", "bmp": "bgr24", "webp": "yuv420p"}.get(path.suffix[1:], "yuvj420p")
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream: Any = container.add_stream(codec[path.suffix[1:].lower()], rate=1)
        stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, pix_fmt
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def test_a_folder_of_images_in_natural_order(tmp_path: Path) -> None:
    for number in (1, 2, 9, 10, 11, 100):
        save_image(tmp_path / f"frame{number}.png", number)
    (tmp_path / "readme.txt").write_text("not an image")
    frames = read(tmp_path, Fraction(1, 2))
    assert [frame.clip_index for frame in frames] == list(range(6))
    for frame, number in zip(frames, (1, 2, 9, 10, 11, 100), strict=True):
        expected = r2rt.video.prepare_frame(numbered_picture(number), 32)
        assert np.array_equal(frame.pixels, expected)
    with open_source(tmp_path, fps=Fraction(1, 2), image_size=32) as source:
        assert (source.info.kind, source.info.duration_s) == ("images", 12.0)
        assert (source.info.width, source.info.height) == (96, 64)


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "webp"])
def test_image_formats(suffix: str, tmp_path: Path) -> None:
    try:
        save_image(tmp_path / f"one.{suffix}", 5)
    except (av.error.FFmpegError, ValueError):
        pytest.skip(f"this FFmpeg cannot write {suffix}")
    (frame,) = read(tmp_path)
    expected = r2rt.video.prepare_frame(numbered_picture(5), 32)
    assert np.abs(frame.pixels.astype(int) - expected).mean() < 40


@pytest.mark.parametrize("kind", ["named.png", "cut.jpg", "animated.png", "deep.png"])
def test_unusual_images_are_read_as_from_a_container(kind: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / kind
    pictures = [image.fromarray(numbered_picture(number)) for number in (5, 9)]
    if kind == "animated.png":
        pictures[0].save(path, save_all=True, append_images=pictures[1:])
    elif kind == "deep.png":
        pictures[0].convert("L").convert("I;16").save(path)
    else:
        pictures[0].save(path, format="JPEG" if kind in {"named.png", "cut.jpg"} else "PNG")
    if kind.startswith("cut"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with av.open(str(path)) as container:
        whole = next(container.decode(video=0))
    (frame,) = read(tmp_path)
    assert np.array_equal(frame.pixels, r2rt.video.prepare_frame(whole, 32))


def test_images_at_a_rate_of_their_own(tmp_path: Path) -> None:
    for number in range(10):
        save_image(tmp_path / f"{number}.png", number)
    frames = read(tmp_path, Fraction(1, 2), source_fps=2)
    # Clip 0 shows the last image before 1 s, clip 1 before 3 s; 5 s are 2.5 clips, rounded up.
    assert [frame.time_s for frame in frames] == [0.5, 2.5, 4.5]
    assert [frame.clip_index for frame in frames] == [0, 1, 2]
    part = read(tmp_path, Fraction(1, 2), source_fps=2, start_s=2.0, end_s=4.0)
    assert [frame.time_s for frame in part] == [0.5]


def test_damaged_images_are_replaced(tmp_path: Path) -> None:
    for number in range(5):
        save_image(tmp_path / f"{number}.png", number)
    for number in (0, 3):
        (tmp_path / f"{number}.png").write_bytes(b"no image at all")
    with open_source(tmp_path, fps=Fraction(1), image_size=32) as source:
        frames = list(source)
        assert source.report.packets_lost == source.report.frames_replaced == 2
    assert [(frame.clip_index, frame.count) for frame in frames] == [(0, 2), (2, 1), (3, 1), (4, 1)]
    assert np.array_equal(frames[1].pixels, frames[2].pixels)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that refuses reading")
def test_images_that_refuse_reading_are_replaced(tmp_path: Path) -> None:
    for number in range(2):
        save_image(tmp_path / f"{number}.png", number)
    (tmp_path / "9.png").symlink_to("/proc/self/mem")  # its first byte cannot be read, even by root
    with open_source(tmp_path, fps=Fraction(1), image_size=32) as source:
        assert sum(frame.count for frame in source) == 3
        assert source.report.frames_replaced == 1


_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video 45678 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
)


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile other.mp4\n", _SDP])
def test_a_playlist_called_an_image_opens_nothing(
    text: str, make_video: VideoMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.mp4").write_bytes(make_video("reported.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)  # where FFmpeg looks for what has no place of its own
    path = tmp_path / "image.png"
    path.write_bytes(text.encode())
    began = time.monotonic()
    with pytest.raises(NotAVideoError):
        read_image(path)
    assert time.monotonic() - began < 10  # and waits for no packets from the network


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="without images"):
        read(tmp_path)
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(NoFramesError, match="none of the 1 images"):
        read(tmp_path)


def test_an_array() -> None:
    array = np.stack([numbered_picture(number) for number in range(50)])
    frames = read(array, Fraction(1), source_fps=25)
    assert [frame.time_s for frame in frames] == [12 / 25, 37 / 25]
    assert np.array_equal(frames[1].pixels, r2rt.video.prepare_frame(array[37], 32))
    with open_source(array, fps=Fraction(1), image_size=32, source_fps=29.97) as source:
        assert source.info.name == "<array>"
        assert source.info.frame_rate == Fraction(2997, 100)
        assert source.info.duration_s == pytest.approx(50 / 29.97)
        list(source)
        assert source.report.fallback is None


@pytest.mark.parametrize(
    ("asked", "rate"),
    [
        (23.976, Fraction(2997, 125)),
        (30_000 / 1001, Fraction(30_000, 1001)),
        (1 / 3600, Fraction(1, 3600)),
        (0.0004, Fraction(1, 2500)),
        (1 / 30, Fraction(1, 30)),
        (Fraction(7, 3601), Fraction(7, 3601)),
    ],
)
def test_a_rate_is_the_simple_fraction_that_a_number_means(
    asked: Fraction | float, rate: Fraction
) -> None:
    array = np.zeros((2, 8, 8, 3), np.uint8)
    with open_source(array, fps=Fraction(1), image_size=8, source_fps=asked) as source:
        assert source.info.frame_rate == rate
        assert source.info.duration_s == pytest.approx(2 / float(asked), rel=1e-3)


def test_an_array_agrees_with_the_video_of_it(make_video: VideoMaker) -> None:
    array = np.stack([numbered_picture(number) for number in range(60)])
    path = make_video("lossless.mkv", codec="ffv1", frames=60, pix_fmt="bgr0")
    for fps in (Fraction(1, 2), Fraction(3)):
        ours, theirs = read(array, fps, source_fps=25), read(path, fps)
        assert [(f.clip_index, f.count) for f in ours] == [(f.clip_index, f.count) for f in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert np.abs(a.pixels.astype(int) - b.pixels).max() <= 2


def test_arrays_that_cannot_be_used() -> None:
    with pytest.raises(QueryError, match="source_fps"):
        read(np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(NotAVideoError, match=r"expected \(T, height, width, 3\)"):
        read(np.zeros((4, 4, 3), np.uint8), source_fps=1)
    with pytest.raises(NotAVideoError, match="float64"):
        read(np.zeros((2, 4, 4, 3)), source_fps=1)
    with pytest.raises(NoFramesError):
        read(np.zeros((0, 4, 4, 3), np.uint8), source_fps=1)
    for rate in (0, -5, float("nan"), float("inf"), 1e-30, Fraction(1, 10**30)):
        with pytest.raises(QueryError, match="source_fps"):
            read(np.zeros((2, 4, 4, 3), np.uint8), source_fps=rate)
