"""Clips, measured from the files that were written: pictures by their numbers, sound by clicks."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from r2rt.errors import OutputError, QueryError
from r2rt.media import Cut, cut_clips, write_reel
from tests.conftest import CHECKOUT
from tests.r2rt.media.footage import RATES, Watched, prediction, vfr_times, watch, write_footage

pytestmark = pytest.mark.slow

SYNC_S = 0.025  # what is promised; what is measured is below 1 ms where packets are not copied
# name -> ending, frame length s, how to write it
SOURCES: dict[str, tuple[str, float, dict[str, Any]]] = {
    "23.976": (".mp4", 1 / 23.9, {"rate": RATES["23.976"], "frames": 150}),
    "29.97": (".mp4", 1 / 29.9, {"rate": RATES["29.97"], "frames": 180}),
    "50": (".mp4", 1 / 50, {"rate": RATES["50"], "frames": 300}),
    "vfr": (".mp4", 0.12, {"times": vfr_times(100), "frames": 100}),
    "no B-frames": (".mp4", 1 / 25, {"options": {"g": "40", "bf": "0"}}),
    "non-zero start, mpegts": (".ts", 1 / 25, {"start_s": Fraction(7)}),
    "non-zero start, mp4": (".mp4", 1 / 25, {"start_s": Fraction(7)}),
    "milliseconds, mkv": (".mkv", 1 / 29, {"rate": RATES["29.97"], "sound": "libopus"}),
    "no sound": (".mp4", 1 / 25, {"sound": None}),
    "late sound": (".mp4", 1 / 25, {"sound_late_s": Fraction(5, 2)}),
    "vp9": (
        ".webm",
        1 / 25,
        {
            "codec": "libvpx-vp9",
            "options": {"g": "40", "cpu-used": "8"},
            "sound": "libopus",
        },
    ),
    "mono at 22.05 kHz": (".mp4", 1 / 25, {"sound_rate": 22050, "layout": "mono"}),
}
START_S, END_S = 2.217, 4.391

FootageMaker = Callable[..., Path]


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> FootageMaker:
    folder = tmp_path_factory.mktemp("footage")

    def make(name: str) -> Path:
        ending, _, how = SOURCES[name]
        path = folder / f"{name}{ending}"
        if not path.exists():
            write_footage(path, **{"frames": 150} | how)
        return path

    return make


def cut(video: Path, folder: Path, start_s: float, end_s: float, **how: Any) -> Cut:
    (only,) = cut_clips(video, [prediction((start_s, end_s, 0.9))], folder, **how)
    return only


def on_its_clock(video: Path) -> tuple[Watched, list[float], list[float]]:
    """What a source holds, and when its pictures and clicks are on the clock of moments."""
    with av.open(str(video)) as container:
        origin_s = (container.start_time or 0) / 1_000_000
    seen = watch(video)
    return (
        seen,
        [time_s - origin_s for time_s in seen.times_s],
        [time_s - origin_s for time_s in seen.clicks_s],
    )


def check_times(video: Path, made: Cut, *, tolerance_s: float = 0.001) -> Watched:
    """Every picture and click of the clip is where the source has it, from the clip's start on."""
    source, times_s, clicks_s = on_its_clock(video)
    clip = watch(made.path)
    assert clip.numbers == list(range(clip.numbers[0], clip.numbers[-1] + 1))  # none lost or twice
    for number, time_s in zip(clip.numbers, clip.times_s, strict=True):
        expected = times_s[source.numbers.index(number)] - made.start_s
        assert time_s == pytest.approx(max(0.0, expected), abs=tolerance_s)
    inside = [time_s - made.start_s for time_s in clicks_s]
    inside = [time_s for time_s in inside if 0.01 < time_s < made.end_s - made.start_s - 0.01]
    assert len(clip.clicks_s) == len(inside)
    for heard, expected in zip(clip.clicks_s, inside, strict=True):
        assert abs(heard - expected) < SYNC_S
    return clip


@pytest.mark.parametrize("name", SOURCES)
def test_a_clip_is_exact_to_the_frame_and_its_sound_in_step(
    name: str, footage: FootageMaker, tmp_path: Path
) -> None:
    video, frame_s = footage(name), SOURCES[name][1]
    made = cut(video, tmp_path, START_S, END_S)
    assert abs(made.start_off_s) <= frame_s / 2 + 0.002
    assert abs(made.end_off_s) <= frame_s / 2 + 0.002
    clip = check_times(video, made)
    source, times_s, _ = on_its_clock(video)
    first = source.numbers.index(clip.numbers[0])
    # The first picture is the one on display where the clip starts, and likewise the last.
    assert times_s[first] <= made.start_s + 0.001
    assert times_s[first + 1] > made.start_s
    last = source.numbers.index(clip.numbers[-1])
    assert times_s[last] < made.end_s <= times_s[last + 1] + 0.001
    assert clip.times_s[0] == 0
    assert clip.ends_s == pytest.approx(made.end_s - made.start_s, abs=0.002)
    if SOURCES[name][2].get("sound", "aac") is not None:
        # The last packet of AAC may go on a little; a clip's sound never ends before its picture.
        assert -0.002 <= clip.sound_s - clip.ends_s < 1100 / 22050


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "late sound"])
def test_a_copy_reports_truly_how_far_it_is_off(
    name: str, footage: FootageMaker, tmp_path: Path
) -> None:
    video = footage(name)
    made = cut(video, tmp_path, START_S, END_S, copy=True)
    clip = check_times(video, made, tolerance_s=0.002)
    source, times_s, _ = on_its_clock(video)
    begins_s = times_s[source.numbers.index(clip.numbers[0])]
    assert made.start_off_s == pytest.approx(begins_s - START_S, abs=0.001)
    assert made.start_off_s <= SOURCES[name][1]  # never begins after what was asked for
    after = source.numbers.index(clip.numbers[-1]) + 1
    assert made.end_off_s == pytest.approx(times_s[after] - END_S, abs=0.001)
    with av.open(str(video)) as one, av.open(str(made.path)) as other:
        bits = [next(c.decode(video=0)).pict_type for c in (one, other)]
        names = [c.streams.video[0].codec_context.codec.canonical_name for c in (one, other)]
    assert names[0] == names[1]
    assert bits[1] == bits[0]  # a keyframe


def test_a_frame_that_stands_for_seconds_is_cut_where_asked(tmp_path: Path) -> None:
    times = vfr_times(60)
    at = 30  # the picture that stands for 1.5 s
    assert times[at + 1] - times[at] == Fraction(3, 2)
    video = write_footage(tmp_path / "slides.mp4", times=times, frames=60)
    start_s, end_s = float(times[at]) + 0.4, float(times[at]) + 1.1
    made = cut(video, tmp_path, start_s, end_s)
    assert (made.start_s, made.end_s) == pytest.approx((start_s, end_s), abs=1e-4)
    clip = watch(made.path)
    assert clip.numbers == [at]
    assert clip.ends_s == pytest.approx(0.7, abs=0.002)
    assert clip.sound_s == pytest.approx(0.7, abs=0.023)


def test_padding_stops_at_the_videos_ends(tmp_path: Path) -> None:
    video = write_footage(tmp_path / "a.mp4", frames=75, sound=None)
    made = cut(video, tmp_path, 1.0, 2.0, padding_s=0.4)
    assert (made.start_s, made.end_s) == pytest.approx((0.6, 2.4))
    assert watch(made.path).numbers == list(range(15, 60))
    made = cut(video, tmp_path, 1.0, 2.0, padding_s=60)
    assert watch(made.path).numbers == list(range(75))


def test_even_the_shortest_moment_has_a_frame(tmp_path: Path) -> None:
    video = write_footage(tmp_path / "a.mp4", frames=50, sound=None)
    assert watch(cut(video, tmp_path, 1.0, 1.0001).path).numbers == [25]
    assert watch(cut(video, tmp_path, 1.99, 2.0).path).numbers == [49]


@pytest.mark.parametrize("ending", [".mkv", ".mp4"])
def test_a_moment_before_the_first_frame_shows_that_frame(ending: str, tmp_path: Path) -> None:
    late = [Fraction(3) + Fraction(number, 25) for number in range(25)]
    video = write_footage(tmp_path / f"a{ending}", frames=25, times=late)
    made = cut(video, tmp_path / "cut", 0.5, 2.25)
    film = watch(made.path)
    assert film.numbers == [0]
    assert film.ends_s == pytest.approx(1.75, abs=0.002)
    assert film.clicks_s == pytest.approx([0.5, 1.5], abs=SYNC_S)


def test_a_moment_outside_of_the_video_is_refused(tmp_path: Path) -> None:
    video = write_footage(tmp_path / "a.mp4", frames=25, sound=None)
    with pytest.raises(QueryError, match="is it the video that was asked"):
        cut(video, tmp_path / "out", 5.0, 6.0)
    assert list((tmp_path / "out").iterdir()) == []


TURNED = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
MIRRORED = (-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)


@pytest.mark.parametrize(
    "how",
    [
        {"matrix": TURNED},
        {"matrix": MIRRORED},
        {"sample_aspect_ratio": Fraction(4, 3)},
        {"colors": {"color_range": 1, "colorspace": 1, "color_primaries": 1, "color_trc": 1}},
        {"colors": {"color_range": 1, "colorspace": 6, "color_primaries": 6, "color_trc": 6}},
        {"pix_fmt": "yuvj420p", "colors": {"color_range": 2, "colorspace": 1}},
        {"pix_fmt": "yuv422p", "colors": {"color_range": 1, "colorspace": 1}},
        {"pix_fmt": "yuv420p10le", "colors": {"color_range": 1, "colorspace": 9, "color_trc": 16}},
    ],
    ids=["turned", "mirrored", "4:3 samples", "BT.709", "BT.601", "full range", "4:2:2", "10 bits"],
)
def test_a_clip_looks_like_its_source(how: dict[str, Any], tmp_path: Path) -> None:
    video = write_footage(tmp_path / "a.mp4", frames=30, sound=None, **how)
    made = cut(video, tmp_path, 0.4, 1.0)
    (before, facts), (after, clip_facts) = look(video, 10), look(made.path, 0)
    assert clip_facts == facts
    # Of 255, in blocks of 8 by 8: colours are neither shifted nor stretched. Single pixels are
    # noise, of which 4:2:0 keeps half.
    assert np.abs(blocks(before) - blocks(after)).mean() < 2
    assert np.abs(before.mean((0, 1)) - after.mean((0, 1))).max() < 1


def look(path: Path, number: int) -> tuple[Any, dict[str, Any]]:
    from r2rt.video.pixels import display_matrix

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frame = list(container.decode(video=0))[number]
        facts = {
            "size": (frame.width, frame.height),
            "samples": stream.sample_aspect_ratio or Fraction(1),
            "matrix": display_matrix(frame),
            "range": int(frame.color_range),
            "matrix of colours": int(frame.colorspace),
            "primaries": int(getattr(frame, "color_primaries", 0)),  # since PyAV 17
            "transfer": int(getattr(frame, "color_trc", 0)),
        }
        return frame.to_ndarray(format="rgb24").astype(float), facts


def blocks(picture: Any) -> Any:
    height, width, _ = picture.shape
    return picture.reshape(height // 8, 8, width // 8, 8, 3).mean((1, 3))


def test_an_odd_size_gains_a_row_and_a_column(tmp_path: Path) -> None:
    video = write_footage(
        tmp_path / "a.mp4", frames=30, size=(95, 63), pix_fmt="yuv444p", sound=None
    )
    made = cut(video, tmp_path, 0.4, 1.0)
    (before, _), (after, facts) = look(video, 10), look(made.path, 0)
    assert facts["size"] == (96, 64)
    whole = blocks(before[:56, :88]), blocks(after[:56, :88])
    assert np.abs(whole[0] - whole[1]).mean() < 4
    assert np.abs(after[:, 95].mean(1) - after[:, 94].mean(1)).mean() < 12


def test_what_avi_does_not_time_is_cut_all_the_same(tmp_path: Path) -> None:
    video = write_footage(tmp_path / "a.avi", frames=75, sound="mp3")
    made = cut(video, tmp_path, 1.0, 2.0)
    clip = watch(made.path)
    assert clip.numbers == list(range(clip.numbers[0], clip.numbers[0] + 25))
    assert clip.times_s == pytest.approx([number / 25 for number in range(25)], abs=1e-3)
    with pytest.raises(OutputError, match="leave --copy out"):
        cut(video, tmp_path, 1.0, 2.0, copy=True)


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize(
    ("ending", "how"),
    [(".flv", {}), (".avi", {"codec": "mpeg4", "options": {"g": "9"}, "sound": "mp3"})],
)
def test_the_beginning_of_what_seeks_to_no_time_before_it(
    ending: str, how: dict[str, Any], copy: bool, tmp_path: Path
) -> None:
    video = write_footage(tmp_path / f"a{ending}", frames=75, **how)
    made = cut(video, tmp_path / "out", 0.0, 2.5, copy=copy)
    clicks_s = [time_s - made.start_s for time_s in on_its_clock(video)[2]]
    assert watch(made.path).clicks_s == pytest.approx(clicks_s[:2], abs=SYNC_S)


@pytest.mark.parametrize("ending", [".avi", ".mkv"])
def test_an_audio_track_without_packets_is_no_obstacle(ending: str, tmp_path: Path) -> None:
    how: dict[str, Any] = {"codec": "mpeg4", "options": {"g": "9"}, "sound": "mp3"}
    video = write_footage(tmp_path / f"a{ending}", frames=50, sound_late_s=Fraction(9), **how)
    for copy in (False, True):
        film = watch(cut(video, tmp_path / "out", 0.0, 1.0, copy=copy).path)
        assert film.numbers == list(range(25))
        assert film.clicks_s == []


def test_an_audio_track_that_comes_and_goes_is_no_obstacle(tmp_path: Path) -> None:
    # FFmpeg looks for tracks in the first 5 MB and at the end.
    how: dict[str, Any] = {"codec": "mpeg2video", "size": (720, 576), "sound": "mp2"}
    how["options"] = {"g": "1", "qmin": "1", "qmax": "1", "b": "400M"}
    one = write_footage(tmp_path / "one.ts", frames=16, **how)
    two = tmp_path / "two.ts"
    with av.open(str(one)) as source, av.open(str(two), "w") as target:
        streams = [target.add_stream_from_template(stream) for stream in source.streams]
        second: Any = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux():
            if packet.dts is None:
                continue
            copied = av.Packet(bytes(packet))
            copied.pts, copied.dts, copied.time_base = packet.pts, packet.dts, packet.time_base
            copied.stream, packet.stream = second, streams[packet.stream_index]
            target.mux(packet)
            if packet.stream is streams[1]:
                target.mux(copied)
    video = tmp_path / "joined.ts"
    video.write_bytes(one.read_bytes() + two.read_bytes() + one.read_bytes())
    clip = watch(cut(video, tmp_path / "out", 0.0, 1.92).path, read=lambda frame: frame.width)
    assert clip.sound_s == pytest.approx(clip.ends_s, abs=0.03)


@pytest.mark.parametrize("second_begins_s", [0, 60])
def test_where_the_clock_leaps_sound_stays_in_step(second_begins_s: int, tmp_path: Path) -> None:
    starts = (Fraction(0), Fraction(second_begins_s))
    parts = [
        write_footage(tmp_path / f"{number}.ts", frames=100, start_s=start)
        for number, start in enumerate(starts)
    ]
    video = tmp_path / "joined.ts"
    video.write_bytes(b"".join(part.read_bytes() for part in parts))
    for start_s, end_s, clicks in ((2.4, 3.6, 1), (2.6, 5.6, 2), (4.8, 7.6, 3)):
        clip = watch(cut(video, tmp_path / "out", start_s, end_s).path)
        # The footage clicks with every 25th of its pictures, but not with the first.
        at_s = [
            time_s
            for number, time_s in zip(clip.numbers, clip.times_s, strict=True)
            if number and number % 25 == 0
        ]
        assert len(at_s) == clicks
        assert clip.clicks_s == pytest.approx(at_s, abs=SYNC_S)


def test_damage_in_a_moment_leaves_frames_out_and_nothing_else(tmp_path: Path) -> None:
    video = write_footage(tmp_path / "a.mp4", frames=150)
    content = bytearray(video.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = b"\xa5" * 2000
    video.write_bytes(content)
    made = cut(video, tmp_path / "out", 0.0, 6.0)
    clip = watch(made.path)
    assert clip.ends_s == pytest.approx(6.0, abs=0.05)
    assert clip.count > 75
    assert clip.sound_s == pytest.approx(6.0, abs=0.03)


def test_every_moment_of_every_query_is_a_file_that_sorts(tmp_path: Path) -> None:
    video = write_footage(tmp_path / "My Film.mp4", frames=75, sound=None)
    asked = [
        prediction((1.0, 2.0, 0.9), (0.0, 1.0, 0.4), query="A dog: catches/a *frisbee*?"),
        prediction((2.0, 3.0, 0.7), query="a dog catches a frisbee"),
        prediction(query="nothing"),
    ]
    seen: list[tuple[int, int | None]] = []
    cuts = cut_clips(video, asked, tmp_path / "clips", update=lambda *at: seen.append(at))
    assert [made.path.name for made in cuts] == [
        "my-film.a-dog-catches-a-frisbee.01.00h00m01s000-00h00m02s000.mp4",
        "my-film.a-dog-catches-a-frisbee.02.00h00m00s000-00h00m01s000.mp4",
        "my-film.a-dog-catches-a-frisbee-2.01.00h00m02s000-00h00m03s000.mp4",
    ]
    assert sorted((tmp_path / "clips").iterdir()) == sorted(made.path for made in cuts)
    assert [(made.rank, made.query) for made in cuts] == [
        (1, asked[0].query),
        (2, asked[0].query),
        (1, asked[1].query),
    ]
    assert seen == [(1, 3), (2, 3), (3, 3)]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.r2rt.media.footage import prediction
from r2rt.errors import OutputError
from r2rt.media import cut_clips
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    asked = [prediction((0, 3, 0.9))]
    cut_clips(Path(sys.argv[1]), asked, Path(sys.argv[2]), copy=sys.argv[3] == "copy")
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit of file sizes here")
@pytest.mark.parametrize("how", ["encode", "copy"])
def test_a_disk_that_is_full_leaves_nothing_behind(how: str, tmp_path: Path) -> None:
    assert resource.RLIMIT_FSIZE is not None
    video = write_footage(tmp_path / "a.mp4", frames=75)
    folder = tmp_path / "out"
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(video), str(folder), how],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        check=True,
    )
    assert "cannot be written" in result.stdout, result.stderr
    assert list(folder.iterdir()) == []


def test_a_clip_that_fails_leaves_the_one_before_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_footage(tmp_path / "a.mp4", frames=50, sound=None)
    made = cut(video, tmp_path, 0.0, 1.0)
    before = made.path.read_bytes()

    def fail(path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("r2rt.media.cut.write_movie", fail)
    with pytest.raises(OutputError, match="No space left"):
        cut(video, tmp_path, 0.0, 1.0)
    assert made.path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_clips_are_there_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_footage(tmp_path / "a.mp4", frames=50, sound=None)
    asked = [prediction((0.0, 0.5, 0.9), (1.0, 1.5, 0.8))]
    folder = tmp_path / "clips"

    def stop(done: int, _: int | None) -> None:
        assert not [path for path in folder.iterdir() if not path.name.startswith(".")]
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_clips(video, asked, folder, update=stop)
    assert not list(folder.iterdir())
    assert len(cut_clips(video, asked, folder)) == 2
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("copy", [False, True])
def test_all_audio_tracks_are_kept(copy: bool, tmp_path: Path) -> None:
    """Two tracks of different pitch and language, decoded by ffmpeg."""
    video = tmp_path / "two.mp4"
    write_tones(video, {"eng": 440, "deu": 1000})
    made = cut(video, tmp_path / "out", 1.0, 3.0, copy=copy)
    assert tones(made.path) == {"eng": 440, "deu": 1000}


def test_audio_tracks_of_several_videos_are_joined_one_by_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one.mp4", tmp_path / "two.mp4"
    write_tones(one, {"eng": 440})
    write_tones(two, {"eng": 440, "deu": 1000})
    asked = [prediction((1.0, 2.0, 0.9))]
    reel = write_reel([(one, asked), (two, asked)], tmp_path / "reel.mp4")
    assert tones(reel.path, from_s=1.1) == {"eng": 440, "deu": 1000}
    assert tones(reel.path, to_s=0.9) == {"eng": 440, "deu": 0}  # the first video has no second


def write_tones(path: Path, hertz: dict[str, int]) -> None:
    rate = 48000
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        tracks: list[Any] = [container.add_stream("aac", rate=rate) for _ in hertz]
        for track, language in zip(tracks, hertz, strict=True):
            track.metadata["language"] = language
        for number in range(100):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8))
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for track, pitch in zip(tracks, hertz.values(), strict=True):
            wave = 0.5 * np.sin(2 * np.pi * pitch * np.arange(4 * rate) / rate)
            for at in range(0, len(wave), 1024):
                block = np.tile(wave[at : at + 1024].astype(np.float32), (2, 1))
                piece = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
                piece.sample_rate, piece.time_base, piece.pts = rate, Fraction(1, rate), at
                container.mux(track.encode(piece))
            container.mux(track.encode(None))


def tones(path: Path, from_s: float = 0.1, to_s: float = 1.9) -> dict[str, int]:
    """The strongest pitch of each audio track, in whole hertz; 0 where it is silent."""
    found = {}
    with av.open(str(path)) as container:
        languages = [stream.metadata["language"] for stream in container.streams.audio]
    for number, language in enumerate(languages):
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray()[0] for frame in container.decode(audio=number)]
            rate = container.streams.audio[number].codec_context.sample_rate
        wave = np.concatenate(frames)[round(from_s * rate) : round(to_s * rate)]
        power = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
        found[language] = round(int(power.argmax()) * rate / len(wave)) if power.max() > 1 else 0
    return found
