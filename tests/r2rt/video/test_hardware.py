"""Hardware decoders: used where they are there and faster, reported where not, never worse."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel

from r2rt.errors import BackendUnavailableError, NotAVideoError, QueryError
from r2rt.video import container, demux, hardware, open_source
from r2rt.video.api import DecodeReport
from r2rt.video.decoders import Decoder
from r2rt.video.demux import Demuxer
from r2rt.video.hardware import choose_decoder
from tests.conftest import CHECKOUT
from tests.r2rt.video.clips import write_video

VIDEO = CHECKOUT / "demo" / "shapes.mp4"

# Runs in every process that measures. vaapi is slow, qsv gives other pixels, videotoolbox ends its
# process, d3d11va falls back to the CPU, cuda is the fastest: the CPU is slowed most.
FAKES = """
import os, time
from r2rt.video import demux
real = demux.Demuxer.__init__
def opened(self, path, *, decoder="cpu", **options):
    real(self, path, **options)
    self.asked = decoder
    self.decoder = "cpu" if decoder == "d3d11va" else decoder
demux.Demuxer.__init__ = opened
def decode(self, packet):
    if self.asked == "videotoolbox":
        os.abort()
    time.sleep({"cpu": 0.02, "vaapi": 0.06}.get(self.asked, 0))
    frames = self.context.decode(packet)
    if self.asked == "qsv":
        frames = [type(x).from_ndarray(255 - x.to_ndarray(format="rgb24")) for x in frames]
    return frames
demux.Demuxer.decode = decode
"""


@pytest.fixture(scope="module")
def av1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("av1") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libsvtav1", rate=5, options={"preset": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for level in range(0, 250, 50):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine have every device."""
    monkeypatch.setattr(hardware, "decoder_problem", lambda _: None)


def decode(**options: Any) -> tuple[list[Any], DecodeReport]:
    with open_source(VIDEO, fps=Fraction(1, 2), image_size=32, **options) as source:
        return [frame.pixels for frame in source], source.report


class TestTheDemuxer:
    def test_without_a_device_the_cpu_decodes_and_the_report_says_why(
        self, devices: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, asked = av.open, []

        def no_device(*arguments: Any, hwaccel: HWAccel | None = None, **options: Any) -> Any:
            asked.append(hwaccel)
            if hwaccel is not None:
                raise PermissionError(1, "Operation not permitted")
            return real(*arguments, **options)

        monkeypatch.setattr(av, "open", no_device)
        want, plain = decode()
        assert not any(asked)
        got, report = decode(decoder="cuda")
        # The pass that indexes the file needs none.
        tried = [hwaccel.options for hwaccel in asked if hwaccel is not None]
        assert tried == [{"primary_ctx": "1"}, {}], "the process's own context is tried first"
        assert (plain.decoder, plain.decoder_fallback) == ("cpu", None)
        assert report.decoder == "cpu"
        assert (
            report.decoder_fallback == "FFmpeg cannot use cuda ([Errno 1] Operation not permitted)"
        )
        np.testing.assert_array_equal(got, want)

    def test_a_codec_that_no_hardware_decodes_is_named(
        self, devices: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = av.open

        def on_the_cpu(*arguments: Any, hwaccel: object = None, **options: Any) -> Any:
            return real(*arguments, **options)

        monkeypatch.setattr(av, "open", on_the_cpu)
        _, report = decode(decoder="vaapi")
        assert report.decoder_fallback == "this FFmpeg has no vaapi decoder for h264"

    def test_hardware_that_decodes_is_reported(
        self, devices: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Demuxer, "_open_for", lambda _, path, __: demux._open(path))
        monkeypatch.setattr(Demuxer, "_choose_by_name", lambda _: None)
        monkeypatch.setattr(demux, "_is_of_hardware", lambda _: True)
        _, report = decode(decoder="cuda")
        assert (report.decoder, report.decoder_fallback) == ("cuda", None)

    def test_frames_that_ffmpeg_decoded_on_the_cpu_after_all_are_reported(
        self, devices: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """PyAV's `is_hwaccel` stays true then."""
        monkeypatch.setattr(Demuxer, "_open_for", lambda _, path, __: demux._open(path))
        monkeypatch.setattr(Demuxer, "_choose_by_name", lambda _: None)
        got, report = decode(decoder="cuda")
        assert report.decoder == "cpu"
        assert report.decoder_fallback == "cuda does not decode this kind of h264"
        np.testing.assert_array_equal(got, decode()[0])

    @pytest.mark.parametrize(
        ("format_", "is_of_hardware"),
        [("nv12", True), ("p010le", True), ("yuv420p", False), ("yuv420p10le", False)],
    )
    def test_frames_of_hardware_have_formats_of_their_own(
        self, format_: str, is_of_hardware: bool
    ) -> None:
        assert demux._is_of_hardware(av.VideoFrame(16, 16, format_)) is is_of_hardware

    def test_av1_reaches_the_decoder_that_knows_hardware(
        self, av1: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """FFmpeg prefers a library, libdav1d, for AV1, which knows none."""
        made = []

        def create(codec: av.Codec, mode: str, hwaccel: HWAccel) -> Any:
            if hwaccel.options:
                raise OSError(95, "primary context of other settings")
            made.append((codec.name, mode))
            return SimpleNamespace(is_hwaccel=True, codec=codec, extradata=None)

        monkeypatch.setattr(Demuxer, "_open_for", lambda _, path, __: demux._open(path))
        monkeypatch.setattr(demux, "CodecContext", SimpleNamespace(create=create))
        demuxer = Demuxer(av1, decoder="cuda")
        try:
            assert demuxer.stream.codec_context.codec.name != "av1"
            assert made == [("av1", "r")]
            assert (demuxer.decoder, demuxer.refusal) == ("cuda", None)
            assert demuxer.context.extradata == demuxer.stream.codec_context.extradata
            assert demuxer.context.extradata
        finally:
            demuxer.close()

    def test_a_decoder_that_knows_no_display_matrix_gives_upright_frames(
        self, devices: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def alone(demuxer: Demuxer) -> None:
            known = demuxer.stream.codec_context
            made: Any = av.CodecContext.create(known.codec, "r")
            made.extradata = known.extradata
            demuxer.context = made

        def read(decoder: Decoder) -> list[Any]:
            with open_source(path, fps=Fraction(5), image_size=32, decoder=decoder) as source:
                return [frame.pixels for frame in source]

        path = write_video(tmp_path / "turned.mp4", frames=20, rotation=90)
        want = read("cpu")
        monkeypatch.setattr(Demuxer, "_open_for", lambda _, path, __: demux._open(path))
        monkeypatch.setattr(Demuxer, "_choose_by_name", alone)
        monkeypatch.setattr(demux, "_is_of_hardware", lambda _: True)
        np.testing.assert_array_equal(read("cuda"), want)

    def test_what_is_no_video_stays_none(self, tmp_path: Path) -> None:
        path = tmp_path / "x.mp4"
        path.write_bytes(b"no video at all" * 100)
        with pytest.raises(NotAVideoError):
            Demuxer(path, decoder="cuda")


class TestTheChoice:
    def test_what_is_asked_for_is_taken_or_refused(self, devices: None) -> None:
        assert choose_decoder("cpu", VIDEO) == "cpu"
        assert choose_decoder("qsv", VIDEO) == "qsv"
        with pytest.raises(QueryError, match="no decoder 'gpu'"):
            choose_decoder("gpu", VIDEO)  # type: ignore[arg-type]

    def test_what_is_not_there_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hardware, "_has_device", lambda _: False)
        with pytest.raises(BackendUnavailableError, match="videotoolbox cannot be used: this PyAV"):
            choose_decoder("videotoolbox", VIDEO)
        with pytest.raises(BackendUnavailableError, match=r"cuda cannot be used: .*no such device"):
            choose_decoder("cuda", VIDEO)

    def test_a_pyav_that_loses_colours_is_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("av.codec.hwaccel.hwdevices_available", lambda: ["cuda"])
        monkeypatch.setattr(hardware, "_has_device", lambda _: True)
        monkeypatch.setattr(hardware, "_times", None)
        monkeypatch.setattr(container, "LOSES_HARDWARE_COLOURS", True)
        assert choose_decoder("auto", VIDEO) == "cpu"
        with pytest.raises(BackendUnavailableError, match=r"loses the colours .* PyAV 18 or newer"):
            choose_decoder("cuda", VIDEO)

    def test_videos_of_other_colours_are_measured_on_their_own(self, tmp_path: Path) -> None:
        keys = set()
        for space in ("bt709", "smpte170m"):
            options = {"x264-params": f"colormatrix={space}"}
            path = write_video(tmp_path / f"{space}.mp4", frames=3, options=options)
            keys |= {hardware._key([], path, None, None) for _ in range(2)}
        assert len(keys) == 2

    def test_without_devices_nothing_is_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hardware, "_has_device", lambda _: False)
        monkeypatch.setattr(hardware, "_times", None)
        assert choose_decoder("auto", VIDEO) == "cpu"

    @pytest.mark.slow
    def test_the_fastest_right_decoder_is_taken_and_remembered(
        self, devices: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "sitecustomize.py").write_text(FAKES)
        paths = (str(tmp_path), str(CHECKOUT), os.environ.get("PYTHONPATH", ""))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
        monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))
        assert choose_decoder("auto", VIDEO, threads=1) == "cuda"
        (kept,) = (tmp_path / "cache" / "decoders").iterdir()
        assert set(av_times(kept)) == {"cpu", "cuda", "vaapi"}, "the others are wrong or fail"
        monkeypatch.setattr("subprocess.run", None)
        assert choose_decoder("auto", VIDEO, threads=1) == "cuda"

    def test_it_measures_whatever_the_name_and_the_working_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        video = tmp_path / os.fsdecode(b"\xff.mp4")
        video.symlink_to(VIDEO)
        (tmp_path / "numpy.py").write_text("raise SystemExit('taken from the working folder')")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(hardware, "_LIMIT_S", 600.0)
        assert set(hardware._times([], video, None, 1)) == {"cpu"}

    @pytest.mark.parametrize(
        ("times", "chosen"),
        [
            ({"cpu": 1.0, "cuda": 0.5}, "cuda"),
            ({"cpu": 1.0, "cuda": 0.95}, "cpu"),
            ({"cpu": 1.0, "cuda": 2.0}, "cpu"),
            ({"cpu": 1.0}, "cpu"),
            ({}, "cpu"),
        ],
    )
    def test_hardware_has_to_be_worth_it(
        self,
        times: dict[str, float],
        chosen: str,
        devices: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(hardware, "_times", lambda *_: times)
        assert choose_decoder("auto", VIDEO) == chosen


def av_times(path: Path) -> dict[str, float]:
    import json

    times: dict[str, float] = json.loads(path.read_text())
    return times
