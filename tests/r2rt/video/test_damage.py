"""Damaged, truncated and empty files: what can be decoded is, and what cannot is counted."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from r2rt.errors import NoFramesError, NotAVideoError
from r2rt.video import ClipClock, ClipFrame, DecodeReport, open_source
from r2rt.video.decoder import DecodeCounts, decode_tail
from r2rt.video.demux import Demuxer
from r2rt.video.inspection import inspect_file
from tests.r2rt.video.clips import write_video
from tests.r2rt.video.conftest import VideoMaker
from tests.r2rt.video.oracle import ffmpeg_clips, ffmpeg_end_s, ffmpeg_frames, needs_ffmpeg

GOPS = {"x264-params": "keyint=25:min-keyint=25:scenecut=0:bframes=3"}
FAST_START = {"movflags": "faststart"}
BIG = (320, 240)


@pytest.fixture
def video(make_video: VideoMaker) -> Path:
    return make_video("whole.mp4", frames=200, size=BIG, options=GOPS, muxer_options=FAST_START)


def read(path: Path, fps: Fraction = Fraction(25)) -> tuple[list[ClipFrame], DecodeReport, int]:
    with open_source(path, fps=fps, image_size=32) as source:
        return list(source), source.report, source.num_clips


def overwritten(path: Path, to: Path, *, start: float, length: int) -> Path:
    """A copy of a file with `length` bytes of noise from a share of its length on."""
    data = bytearray(path.read_bytes())
    offset = int(len(data) * start)
    data[offset : offset + length] = np.random.default_rng(1).bytes(length)
    to.write_bytes(data)
    return to


def test_three_overwritten_kilobytes_cost_few_frames(video: Path, tmp_path: Path) -> None:
    whole, _, _ = read(video)
    frames, report, num_clips = read(
        overwritten(video, tmp_path / "hurt.mp4", start=0.5, length=3000)
    )
    assert sum(frame.count for frame in frames) == num_clips == 200
    same = sum(np.array_equal(a.pixels, b.pixels) for a, b in zip(whole, frames, strict=True))
    assert 170 <= same < 200
    assert report.packets_lost + report.frames_corrupt + report.frames_replaced > 0
    assert report.frames_replaced <= 10
    assert report.clips == 200


@needs_ffmpeg
@pytest.mark.parametrize("start", [0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
@pytest.mark.parametrize("fps", [Fraction(1, 2), Fraction(3), Fraction(25)])
def test_every_clip_is_shown_wherever_the_damage_is(
    start: float, fps: Fraction, video: Path, tmp_path: Path
) -> None:
    hurt = overwritten(video, tmp_path / "hurt.mp4", start=start, length=20_000)
    frames, report, num_clips = read(hurt, fps)
    position = 0
    for frame in frames:
        assert frame.clip_index == position
        position += frame.count
    # Like ffmpeg, the video ends with the last frame that decodes.
    assert position == num_clips - report.departures.clips_lost_at_end
    assert num_clips == round(8 * fps)
    assert position >= len(ffmpeg_clips(hurt, fps)) - 1


@needs_ffmpeg
@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
def test_a_truncated_file_keeps_what_is_there(share: float, video: Path, tmp_path: Path) -> None:
    data = video.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: int(len(data) * share)])
    frames, report, num_clips = read(cut)
    clips = [frame.pixels for frame in frames for _ in range(frame.count)]
    theirs = ffmpeg_clips(cut, Fraction(25))
    assert len(theirs) - 3 <= len(clips) <= len(theirs)
    assert all(np.array_equal(a, b) for a, b in zip(clips, theirs, strict=False))
    assert len(clips) == num_clips - report.departures.clips_lost_at_end
    assert report.departures.packets_damaged == 1
    assert report.packets < 200


@pytest.mark.parametrize("name", ["hurt.ts", "hurt.mkv", "hurt.webm"])
def test_other_containers(name: str, make_video: VideoMaker, tmp_path: Path) -> None:
    codec = {"webm": "libvpx-vp9"}.get(name[-4:], "libx264")
    options = GOPS if codec == "libx264" else {"g": "25", "deadline": "realtime", "cpu-used": "8"}
    path = make_video(f"un{name}", codec=codec, frames=120, size=BIG, options=options)
    hurt = overwritten(path, tmp_path / name, start=0.5, length=3000)
    frames, report, _ = read(hurt, Fraction(5))
    assert 18 <= sum(frame.count for frame in frames) <= 25
    assert report.clips == sum(frame.count for frame in frames)


def test_a_file_cut_before_its_index_is_no_video(make_video: VideoMaker, tmp_path: Path) -> None:
    data = make_video("tail.mp4", frames=50).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(NotAVideoError, match=r"cut\.mp4: not a video .* check that it plays"):
        read(cut)


def test_nothing_but_damage(video: Path, tmp_path: Path) -> None:
    data = bytearray(video.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    (tmp_path / "zeros.mp4").write_bytes(data)
    with pytest.raises(NoFramesError, match="no frame could be decoded"):
        read(tmp_path / "zeros.mp4")


def test_noise_of_any_kind_raises_an_error_that_says_so(tmp_path: Path) -> None:
    noise = tmp_path / "noise.mp4"
    for seed in range(20):
        noise.write_bytes(np.random.default_rng(seed).bytes(5000))
        with pytest.raises((NotAVideoError, NoFramesError)):
            read(noise)


@pytest.mark.parametrize(("suffix", "missing_s"), [("ts", 1.2), ("mkv", 0.0)])
def test_frames_that_a_recording_lost_are_reported(
    make_video: VideoMaker, suffix: str, missing_s: float
) -> None:
    """In a file of another kind the frame before the gap may be meant to last so long."""
    times = [Fraction(number, 25) for number in range(130) if not 50 <= number < 80]
    path = make_video(f"gap.{suffix}", frames=len(times), times=times)
    _, report, num_clips = read(path, Fraction(5))
    assert num_clips == 26
    assert report.departures.missing_s == pytest.approx(missing_s, abs=0.01)
    assert bool(report.departures.warnings) == (missing_s > 0)


def test_many_short_gaps_of_a_recording_are_reported(make_video: VideoMaker) -> None:
    times = [Fraction(number, 25) for number in range(130) if number % 20 not in (5, 6)]
    path = make_video("gaps.ts", frames=len(times), times=times)
    _, report, _ = read(path, Fraction(5))
    assert report.departures.missing_s == pytest.approx(14 / 25, abs=0.001)


@pytest.mark.parametrize("suffix", ["ts", "mkv", "mp4", "avi"])
def test_a_whole_recording_lacks_nothing(make_video: VideoMaker, suffix: str) -> None:
    _, report, _ = read(make_video(f"complete.{suffix}", frames=130, options=GOPS), Fraction(5))
    assert not report.departures.warnings


@needs_ffmpeg
def test_frames_that_the_decoder_drops_at_the_end_are_counted(
    make_video: VideoMaker, tmp_path: Path
) -> None:
    """The packets are there, but those they depend on are not, and the decoder reports no error."""
    options = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-pyramid=none"}
    path = make_video("drops.mkv", frames=60, options=options)
    cut = tmp_path / "cut.mkv"
    with av.open(str(path)) as whole, av.open(str(cut), "w") as copy:
        stream = copy.add_stream_from_template(whole.streams.video[0])
        for number, packet in enumerate(whole.demux(video=0)):
            if packet.size and number not in (48, 49):  # the last keyframe and the next packet
                packet.stream = stream
                copy.mux(packet)
    assert ffmpeg_frames(cut) == 50
    _, report, num_clips = read(cut, Fraction(10))
    assert report.clips == num_clips == 24
    assert report.departures.frames_replaced > 0


@needs_ffmpeg
@pytest.mark.parametrize("share", [0.4, 0.43, 0.47, 0.5, 0.53])
def test_a_file_that_ends_before_its_declared_end_is_reported(
    share: float, make_video: VideoMaker, tmp_path: Path
) -> None:
    data = make_video("tail.mkv", frames=120, options=GOPS).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(data[: int(len(data) * share)])
    _, report, _ = read(cut)
    end_s = ffmpeg_end_s(cut, rate=25)
    assert report.departures.ends_early_s == pytest.approx(float(Fraction(120, 25) - end_s))
    assert "before the end that the file declares" in report.departures.warnings[-1]


def write_refused(path: Path, times: list[int], refused: set[int]) -> Path:
    """A frame at each fifth of a second of `times`; the decoder refuses those at `refused`."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * time, np.uint8))
            frame.pts, frame.time_base = time, Fraction(1, 5)
            for packet in stream.encode(frame):
                hurt: Any = av.Packet(b"no picture at all")
                hurt.pts, hurt.dts, hurt.time_base = packet.pts, packet.dts, packet.time_base
                hurt.stream, hurt.is_keyframe = stream, True
                container.mux(hurt if time in refused else packet)
    return path


@pytest.mark.parametrize("threads", [1, 2])
def test_each_packet_that_the_decoder_refuses_counts_once(threads: int, tmp_path: Path) -> None:
    path = write_refused(tmp_path / "refused.mkv", list(range(20)), {7, 19})
    with open_source(path, fps=Fraction(5), image_size=16, threads=threads) as source:
        clips = sum(frame.count for frame in source)
        assert (clips, source.report.packets, source.report.packets_lost) == (19, 20, 2)


def test_a_video_ends_with_the_last_frame_that_comes_out(tmp_path: Path) -> None:
    path = write_refused(tmp_path / "gap.mkv", [*range(10), 15], {15})
    frames, report, num_clips = read(path, Fraction(5))
    assert num_clips == 16
    assert sum(frame.count for frame in frames) == 10
    assert report.departures.clips_lost_at_end == 6
    assert report.packets_lost == 1


def test_what_is_written_to_a_recording_meanwhile_is_left_out(
    make_video: VideoMaker, tmp_path: Path
) -> None:
    """Also where everything is decoded, as of a stream without times."""
    data = make_video("written.h264", muxer="h264", frames=50, options=GOPS).read_bytes()
    path = tmp_path / "recording.h264"
    path.write_bytes(data)
    with open_source(path, fps=Fraction(5), image_size=32) as source:
        assert source.report.fallback
        whole = [frame.pixels for frame in source]
        path.write_bytes(data + data)
        grown = [frame.pixels for frame in source]
        assert np.array_equal(whole, grown)
        assert source.report.clips == source.num_clips == 10
        assert source.report.packets == source.report.packets_decoded == 50


def test_what_is_written_meanwhile_is_left_out_of_the_last_clips(make_video: VideoMaker) -> None:
    paths = [make_video(f"{frames} frames.ts", frames=frames, options=GOPS) for frames in (50, 100)]
    index = inspect_file(paths[0]).index
    clock = ClipClock(fps=Fraction(5), time_base=index.time_base, origin_pts=index.start_pts)
    demuxer = Demuxer(paths[1])
    try:
        picked = list(
            decode_tail(
                demuxer, index, clock, DecodeCounts(), from_clip=8, begin_pts=None, end_pts=None
            )
        )
    finally:
        demuxer.close()
    assert [(frame.clip_index, frame.count) for frame in picked] == [(8, 1), (9, 1)]


def test_a_track_that_comes_and_goes_is_no_damage(tmp_path: Path) -> None:
    # FFmpeg looks for tracks in the first 5 MB and at the end.
    how: dict[str, Any] = {"codec": "mpeg2video", "size": (720, 576)}
    how["options"] = {"g": "1", "qmin": "1", "qmax": "1", "b": "400M"}
    silent = write_video(tmp_path / "silent.ts", frames=16, **how).read_bytes()
    sound = write_video(tmp_path / "sound.ts", frames=2, audio_start_s=Fraction(0), **how)
    path = tmp_path / "joined.ts"
    path.write_bytes(silent + sound.read_bytes() + silent)
    with open_source(path, fps=Fraction(25), image_size=32) as source:
        list(source)
        assert source.report.frames_decoded == 34
        assert source.report.packets_lost == 0
