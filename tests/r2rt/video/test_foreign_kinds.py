"""Kinds of files that cameras, recorders and old programs write, against the ffmpeg program."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from r2rt.errors import NotAVideoError, NoVideoStreamError, QueryError
from r2rt.video import Departures, SourceInfo, open_source
from tests.r2rt.video.clips import numbered_picture, write_video
from tests.r2rt.video.conftest import VideoMaker
from tests.r2rt.video.ogm import write_ogm
from tests.r2rt.video.oracle import ffmpeg_clips, needs_ffmpeg

FILES = Path(__file__).parent / "files"
GOPS = {"x264-params": "keyint=24:bframes=3"}
LONG_GOPS = {"x264-params": "keyint=100:min-keyint=100:scenecut=0:bframes=2"}


def read(
    path: Path, fps: Fraction, **how: Any
) -> tuple[list[NDArray[np.uint8]], Departures, SourceInfo]:
    with open_source(path, fps=fps, image_size=32, **how) as source:
        clips: list[NDArray[np.uint8]] = []
        for frame in source:
            assert frame.clip_index == len(clips)
            clips += [frame.pixels] * frame.count
        departures = source.report.departures
        assert len(clips) == source.num_clips - departures.clips_lost_at_end
        return clips, departures, source.info


def same(ours: list[NDArray[np.uint8]], theirs: list[NDArray[np.uint8]]) -> bool:
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


@needs_ffmpeg
@pytest.mark.parametrize("fps", [Fraction(3), Fraction(15)])
def test_fields_in_packets_of_their_own(fps: Fraction) -> None:
    path = FILES / "field_coded_avchd.mts"
    clips, departures, _ = read(path, fps)
    assert same(clips, ffmpeg_clips(path, fps))
    assert departures.decoded_all == "each field comes in a packet of its own"


@needs_ffmpeg
def test_spatial_video_shows_its_base_view() -> None:
    path = FILES / "mv_hevc_spatial.mp4"
    clips, departures, _ = read(path, Fraction(12))
    assert same(clips, ffmpeg_clips(path, Fraction(12)))
    assert departures == Departures()


@needs_ffmpeg
@pytest.mark.parametrize("name", ["palette.avi", "palette.mov"])
def test_a_palette_that_comes_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("rawvideo", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "pal8"
        grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, 1)
        grey[:, 0] = 255  # alpha comes first
        for number in range(20):
            indices = numbered_picture(number).mean(2).astype(np.uint8)
            pair: Any = (indices, grey)
            frame = av.VideoFrame.from_ndarray(pair, format="pal8")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for fps in (Fraction(1, 2), Fraction(3)):
        clips, _, _ = read(path, fps)
        assert min(clip.mean() for clip in clips) > 40
        assert same(clips, ffmpeg_clips(path, fps))


def two_recordings(folder: Path, *, second_begins_s: int) -> Path:
    """Two transport streams of 8 s, one after the other in one file."""
    parts = []
    for name, begins in (("a", 20), ("b", second_begins_s)):
        part = write_video(
            folder / f"{name}.ts",
            frames=80,
            rate=Fraction(10),
            options=GOPS,
            muxer_options={"output_ts_offset": str(begins)},
        )
        parts.append(part.read_bytes())
    joined = folder / "joined.ts"
    joined.write_bytes(b"".join(parts))
    return joined


@needs_ffmpeg
@pytest.mark.parametrize("second_begins_s", [20, 3620, 10, 45])
def test_leaps_of_a_transport_stream_are_closed(second_begins_s: int, tmp_path: Path) -> None:
    path = two_recordings(tmp_path, second_begins_s=second_begins_s)
    for fps in (Fraction(1, 2), Fraction(3)):
        clips, departures, info = read(path, fps)
        assert same(clips, ffmpeg_clips(path, fps))
        assert len(clips) == round(16 * fps)
        assert info.duration_s == pytest.approx(16, abs=0.01)
        assert departures.leaps_closed == 1
        assert departures.leaps_s == pytest.approx(abs(second_begins_s - 28), abs=0.01)


@needs_ffmpeg
def test_a_gap_that_a_stream_may_have_stays(tmp_path: Path) -> None:
    path = two_recordings(tmp_path, second_begins_s=36)  # 8 s later: less than ffmpeg's 10 s
    clips, departures, info = read(path, Fraction(1))
    assert same(clips, ffmpeg_clips(path, Fraction(1)))
    assert info.duration_s == pytest.approx(24, abs=0.01)
    assert departures.leaps_closed == 0


@pytest.mark.parametrize("leap_s", [67_000, 86_400, 31_536_000])
def test_no_gap_is_longer_than_an_hour(leap_s: int, tmp_path: Path) -> None:
    times = [Fraction(n, 10) + (leap_s if n >= 20 else 0) for n in range(40)]
    path = write_video(tmp_path / "gap.mkv", frames=40, times=times, options=GOPS)
    clips, departures, info = read(path, Fraction(1))
    assert len(clips) <= 5
    assert info.duration_s == pytest.approx(4, abs=0.3)
    assert departures.leaps_closed == 1
    assert departures.leaps_s == pytest.approx(leap_s, rel=0.001)


@needs_ffmpeg
@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
@pytest.mark.parametrize("rate", [24, 30, 50])
def test_raw_streams_last_as_long_as_their_own_rate_says(
    codec: str, rate: int, make_video: VideoMaker
) -> None:
    suffix = {"libx264": "h264", "libx265": "hevc", "mpeg4": "m4v"}[codec]
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = make_video(
        f"raw{rate}.{suffix}",
        codec=codec,
        rate=Fraction(rate),
        frames=3 * rate,
        muxer=suffix,
        options=options,
    )
    # At this rate no frame lies on the boundary of a clip, where FFmpeg 5 rounds to microseconds.
    fps = Fraction(rate, 25)
    clips, _, info = read(path, fps)
    assert info.duration_s == pytest.approx(3, abs=0.001)
    assert same(clips, ffmpeg_clips(path, fps))


@needs_ffmpeg
@pytest.mark.parametrize(
    ("codec", "options"), [("libx264", GOPS), ("mpeg4", {"bf": "2"}), ("mpeg4", {"bf": "0"})]
)
def test_avi_has_no_presentation_times(
    codec: str, options: dict[str, str], make_video: VideoMaker
) -> None:
    path = make_video(f"{codec}{len(options)}{options.get('bf')}.avi", codec=codec, options=options)
    for fps in (Fraction(1), Fraction(3), Fraction(25)):
        clips, _, _ = read(path, fps)
        assert same(clips, ffmpeg_clips(path, fps))


@needs_ffmpeg
def test_ogm_shows_frames_in_the_order_in_which_they_come_out(
    make_video: VideoMaker, tmp_path: Path
) -> None:
    timed = make_video("timed.mkv", codec="mpeg4", frames=60, options={"bf": "2"})
    with av.open(str(timed)) as container:
        extradata = container.streams.video[0].codec_context.extradata or b""
        packets = [(bytes(p), p.is_keyframe) for p in container.demux(video=0) if p.size]
    packets[0] = (extradata + packets[0][0], True)
    path = write_ogm(tmp_path / "old.ogm", packets, fourcc=b"DIVX", rate=25, size=(96, 64))
    for fps in (Fraction(1), Fraction(3), Fraction(25)):
        clips, departures, _ = read(path, fps)
        assert same(clips, ffmpeg_clips(timed, fps))  # the same frames, with times
        assert departures.decoded_all == "the container has no presentation times for mpeg4"


@needs_ffmpeg
def test_a_stream_that_begins_in_the_middle_of_a_group(
    make_video: VideoMaker, tmp_path: Path
) -> None:
    whole = make_video("whole.ts", frames=220, options=LONG_GOPS).read_bytes()
    path = tmp_path / "cut.ts"
    path.write_bytes(whole[188 * (len(whole) // 188 // 10) :])
    for fps in (Fraction(1, 8), Fraction(1, 2), Fraction(3)):
        clips, departures, _ = read(path, fps)
        assert same(clips, ffmpeg_clips(path, fps))
        assert departures.frames_lost_at_start > 40
        assert departures.frames_replaced == 0
        assert "cannot be decoded; the first that can is shown instead" in departures.warnings[0]


def test_an_encrypted_video_is_refused(tmp_path: Path) -> None:
    key = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
        "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
    }
    path = write_video(tmp_path / "locked.mp4", frames=30, options=GOPS, muxer_options=key)
    with pytest.raises(NoVideoStreamError, match="encrypted"):
        read(path, Fraction(1))


@needs_ffmpeg
def test_the_video_ends_with_the_last_frame_that_decodes(tmp_path: Path) -> None:
    path = tmp_path / "tail.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for number in range(25, 900, 100):
            packet = av.Packet(b"no picture at all")
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = Fraction(1, 5), stream
            packet.is_keyframe = True
            container.mux(packet)
    for fps in (Fraction(1), Fraction(3)):
        clips, departures, info = read(path, fps)
        assert same(clips, ffmpeg_clips(path, fps))
        assert info.duration_s == pytest.approx(5, abs=0.5)
        assert departures.clips_lost_at_end > 100


def two_tracks(path: Path, *, default: int) -> Path:
    """The second track is the larger one, and shows other numbers."""
    with av.open(str(path), "w") as container:
        streams: list[Any] = []
        for number, size in enumerate([(96, 64), (192, 128)]):
            stream: Any = container.add_stream("libx264", rate=5)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            if number == default:
                stream.disposition = av.stream.Disposition.default.value
            streams.append(stream)
        for number in range(20):
            for stream, shift in zip(streams, (0, 500), strict=True):
                pixels = numbered_picture(number + shift, (stream.width, stream.height))
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@needs_ffmpeg
@pytest.mark.parametrize("default", [0, 1])
def test_of_several_tracks_the_default_one_is_read(default: int, tmp_path: Path) -> None:
    path = two_tracks(tmp_path / "two.mkv", default=default)
    clips, departures, info = read(path, Fraction(1))
    assert same(clips, ffmpeg_clips(path, Fraction(1), stream=default))
    assert info.width == (96, 192)[default]
    assert f"2 video tracks, of which number {default + 1} is read" in departures.notes[0]
    for track in (1, 2):
        clips, departures, _ = read(path, Fraction(1), video_track=track)
        assert same(clips, ffmpeg_clips(path, Fraction(1), stream=track - 1))
        assert departures == Departures()
    with pytest.raises(QueryError, match="video track 3; expected 1 to 2"):
        read(path, Fraction(1), video_track=3)


def test_heavy_loss_is_reported(make_video: VideoMaker, tmp_path: Path) -> None:
    whole = make_video("whole.ts", frames=220, options=LONG_GOPS).read_bytes()
    packets = [whole[place : place + 188] for place in range(0, len(whole), 188)]
    kept = np.random.default_rng(4).random(len(packets)) > 0.6
    kept[:20] = True
    path = tmp_path / "lossy.ts"
    path.write_bytes(b"".join(packet for packet, keep in zip(packets, kept, strict=True) if keep))
    _, departures, _ = read(path, Fraction(3))
    assert departures.packets_damaged > 10
    assert any("arrived damaged" in text for text in departures.warnings)


def test_live_playlists_and_pipes_are_for_watching(make_video: VideoMaker, tmp_path: Path) -> None:
    (tmp_path / "one.ts").write_bytes(make_video("whole.ts", frames=220).read_bytes())
    playlist = tmp_path / "live.m3u8"
    head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:8.8,\none.ts\n"
    playlist.write_text(head)
    with pytest.raises(NotAVideoError, match=r"live playlist.*r2rt watch"):
        read(playlist, Fraction(1))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotAVideoError, match=r"pipe.*r2rt watch"):
        read(tmp_path / "pipe", Fraction(1))


def test_a_hevc_unit_of_one_byte_breaks_nothing() -> None:
    from r2rt.video.bitstream import packet_reader

    extradata = bytes([1]) + bytes(20) + bytes([3])
    reader = packet_reader("hevc", extradata)
    assert reader is not None
    units: Sequence[bytes] = [b"\x26", b"\x26\x01\x80"]
    packet = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
    assert reader(memoryview(packet), True) == reader(memoryview(packet[5:]), True) != 0
