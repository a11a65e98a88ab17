"""Exact sampling: the same pictures, to the bit, as decoding everything and ffmpeg's fps filter."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from r2rt.video import DecodeReport, FramePreparer, open_source
from tests.r2rt.video.clips import decode_everything, ffmpeg_fps, picture_number
from tests.r2rt.video.conftest import VideoMaker
from tests.r2rt.video.oracle import ffmpeg_clips, needs_ffmpeg

NTSC = Fraction(30_000, 1001)
FILM = Fraction(24_000, 1001)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A way to make a video, and why everything in it must be decoded, if so."""

    name: str
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    rate: Fraction = Fraction(25)
    frames: int = 100
    pix_fmt: str = "yuv420p"
    fallback: str | None = None


def x264(**params: object) -> dict[str, str]:
    return {"x264-params": ":".join(f"{key}={value}" for key, value in params.items())}


def x265(**params: object) -> dict[str, str]:
    params = {"log-level": "none", **params}
    return {"x265-params": ":".join(f"{key}={value}" for key, value in params.items())}


VP9 = {"deadline": "good", "cpu-used": "5", "lag-in-frames": "25", "auto-alt-ref": "1", "g": "24"}
KINDS = [
    Kind(name="plain.mp4", rate=FILM),
    Kind(name="gops.mp4", options=x264(keyint=24, bframes=3), rate=NTSC, frames=130),
    Kind(
        name="open.mp4",
        options=x264(
            **{"open-gop": 1, "keyint": 22, "b-pyramid": "normal", "b-adapt": 0, "scenecut": 0}
        ),
    ),
    Kind(
        name="open.ts",
        options=x264(**{"open-gop": 1, "keyint": 22, "bframes": 4, "b-adapt": 0, "scenecut": 0}),
    ),
    Kind(name="refresh.mkv", options=x264(**{"intra-refresh": 1, "keyint": 24})),
    Kind(name="interlaced.ts", options=x264(tff=1, keyint=20), rate=Fraction(25)),
    Kind(name="ten.mkv", options=x264(keyint=20), pix_fmt="yuv420p10le"),
    Kind(
        name="full.mp4", options=x264(keyint=20), pix_fmt="yuv444p", rate=Fraction(50), frames=160
    ),
    Kind(name="hevc.mp4", codec="libx265", options=x265(keyint=24), rate=Fraction(60), frames=160),
    Kind(
        name="open-hevc.mkv",
        codec="libx265",
        options=x265(**{"open-gop": 1, "keyint": 24, "bframes": 4}),
    ),
    Kind(
        name="layers.mkv",
        codec="libx265",
        options=x265(**{"temporal-layers": 1, "keyint": 24, "bframes": 7, "b-adapt": 0}),
    ),
    Kind(name="altref.webm", codec="libvpx-vp9", options=VP9),
    Kind(name="eight.webm", codec="libvpx", options={**VP9, "b": "100k"}),
    Kind(name="one.mkv", codec="libsvtav1", options={"preset": "10", "svtav1-params": "keyint=24"}),
    Kind(name="visual.mp4", codec="mpeg4", options={"bf": "2", "g": "13"}),
    Kind(name="mpeg2.ts", codec="mpeg2video", options={"bf": "2", "g": "13"}),
    Kind(name="motion.avi", codec="mjpeg", pix_fmt="yuvj420p"),
    Kind(name="intra.mkv", codec="ffv1"),
    Kind(name="forward.avi", codec="mpeg4", options={"bf": "0", "g": "25"}),
    Kind(
        name="packed.avi",
        codec="mpeg4",
        options={"bf": "2"},
        fallback="the container has no presentation times for mpeg4",
    ),
]


@pytest.fixture(scope="session", autouse=True)
def quiet_encoders() -> None:
    """SVT-AV1 prints its settings unless the environment forbids it when it is loaded."""
    os.environ.setdefault("SVT_LOG", "1")


def read(path: Path, fps: Fraction, **how: object) -> tuple[list[NDArray[np.uint8]], DecodeReport]:
    with open_source(path, fps=fps, image_size=32, **how) as source:  # type: ignore[arg-type]
        clips: list[NDArray[np.uint8]] = []
        for frame in source:
            assert frame.clip_index == len(clips)
            assert frame.count >= 1
            clips += [frame.pixels] * frame.count
        assert len(clips) == source.num_clips == source.report.clips
        return clips, source.report


def same(left: list[NDArray[np.uint8]], right: list[NDArray[np.uint8]]) -> list[bool]:
    assert len(left) == len(right)
    return [np.array_equal(a, b) for a, b in zip(left, right, strict=True)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_frames_are_those_of_ffmpeg(kind: Kind, make_video: VideoMaker) -> None:
    path = make_video(
        kind.name,
        codec=kind.codec,
        options=kind.options,
        rate=kind.rate,
        frames=kind.frames,
        pix_fmt=kind.pix_fmt,
    )
    for fps in (Fraction(1, 2), Fraction(1), Fraction(2), Fraction(3), Fraction(12)):
        clips, report = read(path, fps)
        assert all(same(clips, ffmpeg_fps(path, fps)))
        assert report.fallback == kind.fallback
        assert report.packets_lost == report.frames_replaced == 0
        assert report.packets_decoded <= report.packets == kind.frames
        if kind.fallback is None:
            assert report.cost is not None
            assert report.packets_decoded == report.cost.planned_frames
            # Nothing is fed to the decoder in vain.
            assert report.packets_decoded == report.frames_decoded
            assert fps > 1 or report.packets_decoded < report.packets


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if not kind.fallback], ids=lambda k: k.name
)
def test_wherever_it_begins_the_frames_are_the_same(kind: Kind, make_video: VideoMaker) -> None:
    path = make_video(
        kind.name,
        codec=kind.codec,
        options=kind.options,
        rate=kind.rate,
        frames=kind.frames,
        pix_fmt=kind.pix_fmt,
    )
    prepare = FramePreparer(32)
    everything = [(frame.time, prepare(frame)) for frame in decode_everything(path)]
    for start in range(2, 26):
        start_s = 0.08 * start
        with open_source(path, fps=Fraction(1), image_size=32, start_s=start_s) as source:
            for frame in source:
                time_s = source.info.start_s + frame.time_s
                expected = min(everything, key=lambda entry: abs(entry[0] - time_s))
                assert expected[0] == pytest.approx(time_s, abs=1e-4)
                assert np.array_equal(frame.pixels, expected[1])


def test_thread_counts_do_not_matter(make_video: VideoMaker) -> None:
    path = make_video("gops.mp4", options=x264(keyint=24, bframes=3), rate=NTSC, frames=130)
    one, _ = read(path, Fraction(1), threads=1)
    assert all(same(one, read(path, Fraction(1), threads=7)[0]))


def test_variable_rate_and_late_start(make_video: VideoMaker) -> None:
    rng = np.random.default_rng(3)
    steps = rng.choice([1, 2, 3, 40, 90], 80)
    times = [Fraction(int(at), 30) + Fraction(7, 3) for at in np.cumsum(steps)]
    for name in ("vfr.mp4", "vfr.mkv", "vfr.ts"):
        path = make_video(name, frames=80, times=times, options=x264(keyint=12, bframes=2))
        for fps in (Fraction(1, 2), Fraction(1), Fraction(3)):
            clips, report = read(path, fps)
            assert all(same(clips, ffmpeg_fps(path, fps)))
            assert report.fallback is None


def test_a_frame_that_starts_after_the_sound_fills_the_clips_before_it(
    make_video: VideoMaker,
) -> None:
    times = [Fraction(5, 2) + Fraction(number, 25) for number in range(60)]
    path = make_video("late.mkv", frames=60, times=times, audio_start_s=Fraction(0))
    clips, _ = read(path, Fraction(1))
    assert all(same(clips, ffmpeg_fps(path, Fraction(1))))
    assert len(clips) == 5
    assert np.array_equal(clips[0], clips[1])
    with open_source(path, fps=Fraction(1), image_size=32) as source:
        first = next(iter(source))
        assert first.clip_index == 0
        # Older versions of FFmpeg write sound earlier by what its encoder holds back.
        assert first.time_s == pytest.approx(2.5, abs=0.03)


@needs_ffmpeg
def test_sound_that_begins_first_begins_a_transport_stream(make_video: VideoMaker) -> None:
    times = [Fraction(5, 2) + Fraction(number, 25) for number in range(60)]
    path = make_video("late.ts", frames=60, times=times, audio_start_s=Fraction(0))
    for fps in (Fraction(1), Fraction(3)):
        clips, _ = read(path, fps)
        assert len(clips) == 5 * fps
        assert all(same(clips, ffmpeg_clips(path, fps)))


def test_one_frame_and_less_than_a_clip(make_video: VideoMaker) -> None:
    one = make_video("single.mp4", frames=1)
    assert len(read(one, Fraction(1, 2))[0]) == 1
    short = make_video("short.mp4", frames=8)
    clips, report = read(short, Fraction(1, 2))
    assert len(clips) == 1
    assert report.clips == 1


def test_slow_videos_repeat_frames(make_video: VideoMaker) -> None:
    path = make_video("slow.mp4", frames=6, times=[Fraction(3 * n, 2) for n in range(6)])
    with open_source(path, fps=Fraction(2), image_size=32) as source:
        frames = list(source)
    # The last picture, 1/25 s long, begins where the fifteenth clip ends.
    assert [frame.count for frame in frames] == [3] * 5
    assert [frame.time_s for frame in frames] == [0, 1.5, 3, 4.5, 6]


def test_without_duration_in_the_container(make_video: VideoMaker) -> None:
    path = make_video(
        "endless.mp4",
        options=x264(keyint=20),
        muxer_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    )
    clips, report = read(path, Fraction(1))
    assert all(same(clips, ffmpeg_fps(path, Fraction(1))))
    assert report.fallback is None


@pytest.mark.parametrize("cut_s", [Fraction(2, 5), Fraction(13, 10)])
def test_frames_that_an_edit_list_hides_are_decoded_and_not_shown(
    cut_s: Fraction, make_video: VideoMaker, tmp_path: Path
) -> None:
    whole = make_video("gops.mp4", options=x264(keyint=24, bframes=3), rate=NTSC, frames=130)
    path = shifted_copy(whole, tmp_path / "edited.mp4", -cut_s)
    with av.open(str(path)) as container:
        hidden = sum(packet.is_discard for packet in container.demux(video=0))
    assert hidden > 10
    for fps in (Fraction(1, 2), Fraction(1), Fraction(3)):
        clips, report = read(path, fps)
        assert all(same(clips, ffmpeg_fps(path, fps)))
        assert report.fallback is None
        assert report.frames_replaced == 0


def test_frames_behind_the_end_of_an_edit_list_are_left_out(
    make_video: VideoMaker, tmp_path: Path
) -> None:
    whole = make_video("reported.mp4", frames=100, options=x264(keyint=25, bframes=3))
    data = bytearray(whole.read_bytes())
    # Box size and type, version and flags, number of entries; then the first entry's duration.
    duration = slice(data.index(b"elst") + 12, data.index(b"elst") + 16)
    data[duration] = (int.from_bytes(data[duration], "big") // 2).to_bytes(4, "big")
    path = tmp_path / "shortened.mp4"
    path.write_bytes(data)
    for fps in (Fraction(1), Fraction(3)):
        clips, report = read(path, fps)
        assert all(same(clips, ffmpeg_fps(path, fps)))
        assert len(clips) == 2 * fps
        assert report.frames_replaced == 0


def shifted_copy(path: Path, to: Path, by_s: Fraction) -> Path:
    """Copy packets with their times moved; what falls before zero is hidden by an edit list."""
    with (
        av.open(str(path)) as source,
        av.open(str(to), "w", options={"avoid_negative_ts": "disabled"}) as copy,
    ):
        stream = source.streams.video[0]
        output = copy.add_stream_from_template(stream)
        assert stream.time_base is not None
        by = round(by_s / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is None or packet.pts is None:
                continue
            packet.pts += by
            packet.dts += by
            packet.stream = output
            copy.mux(packet)
    return to


def test_raw_stream_without_times_is_decoded_in_full(make_video: VideoMaker) -> None:
    path = make_video("raw.h264", options=x264(keyint=20), muxer="h264")
    clips, report = read(path, Fraction(1))
    assert report.fallback == "some packets have no presentation time"
    assert report.packets_decoded == report.packets == 100
    prepare = FramePreparer(32)
    with av.open(str(path)) as container:
        shown = [prepare(frame) for frame in container.decode(video=0)]
    assert all(same(clips, shown[12::25]))


def test_h264_in_avi_shows_frames_in_order(make_video: VideoMaker) -> None:
    path = make_video("reordered.avi", options=x264(keyint=20, bframes=3))
    with open_source(path, fps=Fraction(25), image_size=32) as source:
        clips = [frame.pixels for frame in source]
        assert source.report.fallback == "the container has no presentation times for h264"
    prepare = FramePreparer(32)
    shown = [prepare(frame) for frame in decode_everything(path)]
    assert len(clips) >= 97
    positions = [
        next(n for n, pixels in enumerate(shown) if np.array_equal(pixels, clip)) for clip in clips
    ]
    assert positions == sorted(positions)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("sampling", ["exact", "nearest"])
def test_memory_does_not_grow_with_the_video(sampling: str, make_video: VideoMaker) -> None:
    path = make_video(
        "large.mp4", codec="mpeg4", frames=200, size=(640, 480), options={"b": "1M", "g": "10"}
    )
    gc.disable()
    try:
        with open_source(path, fps=Fraction(25), image_size=32, sampling=sampling) as source:  # type: ignore[arg-type]
            pages = [resident_pages() for _ in source]
    finally:
        gc.enable()
    # 150 decoded pictures would be 66 MiB.
    assert (pages[-1] - pages[50]) * os.sysconf("SC_PAGE_SIZE") < 16 * 2**20


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.shared("videos/bigbuckbunny.mp4")
def test_a_real_video(shared: Path) -> None:
    for fps in (Fraction(1, 2), Fraction(1), Fraction(3)):
        clips, report = read(shared, fps)
        assert all(same(clips, ffmpeg_fps(shared, fps)))
        assert report.packets_decoded < report.packets


@pytest.mark.shared("videos/bikes.mp4")
def test_another_real_video(shared: Path) -> None:
    clips, report = read(shared, Fraction(1, 2))
    assert all(same(clips, ffmpeg_fps(shared, Fraction(1, 2))))
    assert report.packets_decoded < report.packets / 2


def test_frames_carry_their_number(make_video: VideoMaker) -> None:
    path = make_video("plain.mp4", rate=FILM)
    assert [picture_number(frame) for frame in decode_everything(path)] == list(range(100))
