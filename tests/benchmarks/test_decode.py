from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import decode
from benchmarks.agreement import same_images, similar_images
from benchmarks.harness import Options, Report
from benchmarks.material import VideoSpec, make_video
from r2rt.video import Sampling


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = VideoSpec(seconds=20, width=320, height=240, keyint=50)
    return make_video(spec, tmp_path_factory.mktemp("video"))


@pytest.mark.parametrize("sampling", ["exact", "nearest"])
def test_plain_pyav_reads_the_same_images(video: Path, sampling: Sampling) -> None:
    ours, numbers, decoded = decode.read_ours(video, sampling)
    assert len(numbers) == 10
    assert decoded < 500
    same_images(ours, decode.read_pyav(video, numbers))


@pytest.mark.parametrize(("module", "name"), [("decord", "decord"), ("cv2", "OpenCV")])
def test_competitors_read_the_same_frames(video: Path, module: str, name: str) -> None:
    pytest.importorskip(module, reason="needs pip install 'r2rt[bench]'")
    ours, numbers, _ = decode.read_ours(video, "exact")
    read = decode.COMPETITORS[name][1]
    similar_images(ours, read(video, numbers))
    with pytest.raises(AssertionError):
        similar_images(ours, read(video, [number - 20 for number in numbers]))


def test_one_changed_pixel_is_reported() -> None:
    ours = np.zeros((3, 8, 8, 3), np.uint8)
    theirs = ours.copy()
    theirs[1, 2, 3, 0] = 1
    with pytest.raises(AssertionError, match="1 of 3 images differ, first 1"):
        same_images(ours, theirs)


def test_absent_competitor_is_skipped_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = {"nobody": ("no_such_module_anywhere", decode.read_pyav)}
    monkeypatch.setattr(decode, "COMPETITORS", absent)
    options = Options(quick=True, repeats=1, out=tmp_path, media=tmp_path, plot=False)
    report = Report("decode", options)
    assert decode._installed(report) == {}
    assert [skip.name for skip in report.skips] == ["nobody"]
    printed = capsys.readouterr().err
    assert "nobody skipped: cannot be imported" in printed
    assert "pip install 'r2rt[bench]'" in printed
