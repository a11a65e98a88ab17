"""Decoding on a GPU: used where there is one, told where not, and never worse than without."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel

from r2rt.errors import NotAVideoError
from r2rt.video import demux, open_source
from r2rt.video.api import DecodeReport
from tests.conftest import CHECKOUT

VIDEO = CHECKOUT / "demo" / "shapes.mp4"


def decode(**options: Any) -> tuple[list[Any], DecodeReport]:
    with open_source(VIDEO, fps=Fraction(1, 2), image_size=32, **options) as source:
        return [frame.pixels for frame in source], source.report


def test_without_a_gpu_the_cpu_decodes_and_the_report_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, asked = av.open, []

    def no_device(*arguments: Any, hwaccel: HWAccel | None = None, **options: Any) -> Any:
        asked.append(hwaccel is not None)
        if hwaccel is not None:
            raise PermissionError(1, "Operation not permitted")
        return real(*arguments, **options)

    monkeypatch.setattr(av, "open", no_device)
    want, plain = decode()
    assert not any(asked)
    got, report = decode(gpu=True)
    assert asked.count(True) == 1  # the pass that indexes the file needs none
    assert (plain.decoder, plain.decoder_fallback) == ("cpu", None)
    assert report.decoder == "cpu"
    assert "NVIDIA decoder ([Errno 1] Operation not permitted)" in str(report.decoder_fallback)
    np.testing.assert_array_equal(got, want)


def test_ffmpeg_without_a_driver_falls_back() -> None:
    got, report = decode(gpu=True)
    if report.decoder == "gpu":
        pytest.skip("this machine has an NVIDIA decoder")
    assert report.decoder_fallback is not None
    np.testing.assert_array_equal(got, decode()[0])


def test_a_codec_that_the_gpu_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = av.open

    def on_the_cpu(*arguments: Any, hwaccel: HWAccel | None, **options: Any) -> Any:
        return real(*arguments, **options)

    monkeypatch.setattr(av, "open", on_the_cpu)
    _, report = decode(gpu=True)
    assert report.decoder_fallback == "the GPU has no decoder for h264"


def test_a_gpu_that_decodes_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demux.Demuxer, "_open_on_gpu", lambda _, path: demux._open(path))
    monkeypatch.setattr(demux.Demuxer, "on_gpu", True)
    _, report = decode(gpu=True)
    assert (report.decoder, report.decoder_fallback) == ("gpu", None)


def test_what_is_no_video_stays_none(tmp_path: Any) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(b"no video at all" * 100)
    with pytest.raises(NotAVideoError):
        demux.Demuxer(path, gpu=True)
