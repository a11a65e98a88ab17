"""What is quantised and calibrated on, before anything is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from r2rt import video
from r2rt.errors import OutputError, QueryError, SourceNotFoundError
from r2rt.model.bundle import Bundle
from r2rt.model.installed import models_dir
from r2rt.quality.quantizer import _calibration_frames, _videos, _write_files, quantize_bundle
from r2rt.video import open_source
from tests.r2rt.bundles import write_bundle
from tests.r2rt.engines.tensorrt.fake_tensorrt import bundle_with_engines


def test_what_lies_beside_videos_is_left_out(tmp_path: Path) -> None:
    for name in ("clip 10.mp4", "clip 2.mkv", ".DS_Store", "clip 2.srt", "clip 2.r2rt"):
        (tmp_path / name).write_bytes(b"x")
    assert _videos([tmp_path]) == [tmp_path / "clip 2.mkv", tmp_path / "clip 10.mp4"]


def test_there_must_be_frames_to_calibrate_on(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SourceNotFoundError, match="no videos and no images"):
        _videos([tmp_path])
    (tmp_path / "clip.r2rt").touch()
    with pytest.raises(QueryError, match="has no frames"):
        _videos([tmp_path])


def test_each_frame_of_a_slow_video_is_calibrated_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame may stand for several clips, and any of them may be chosen."""
    write_bundle(tmp_path)
    bundle = Bundle.open(tmp_path)
    size = bundle.dims.image_size
    slides = np.full((20, size, size, 3), np.arange(20, dtype=np.uint8)[:, None, None, None])
    monkeypatch.setattr(
        video, "open_source", lambda _, **how: open_source(slides, source_fps=bundle.fps, **how)
    )
    frames = _calibration_frames([Path("slides.mp4")], bundle)
    assert frames[:, 0, 0, 0].tolist() == list(range(20))


def test_the_origin_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2RT_HOME", str(tmp_path))
    folder = models_dir() / "mine"
    write_bundle(folder)
    (tmp_path / "link").symlink_to(folder)
    for output in (None, folder, tmp_path / "link"):
        with pytest.raises(QueryError, match="is the bundle that is quantised"):
            quantize_bundle("mine", output, name="mine", force=True)
    assert Bundle.open(folder, verify="always").manifest.precision == "fp32"


def test_the_new_bundle_lies_where_its_origin_looks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model may be installed under another name than it calls itself."""
    monkeypatch.setenv("R2RT_HOME", str(tmp_path))
    for name in ("mine", "mine-int8"):
        write_bundle(models_dir() / name)
    assert Bundle.open(models_dir() / "mine").manifest.name != "mine"
    with pytest.raises(OutputError, match=r"models.mine-int8"):
        quantize_bundle("mine")


def test_engines_of_the_origin_are_left_behind(tmp_path: Path) -> None:
    """They compute the graphs that are replaced, and no int8 model could be opened with them."""
    origin = bundle_with_engines(tmp_path / "fp32", {"kernels/sm_90/settle.cubin": b"code"})
    _write_files(tmp_path / "int8", origin, {})
    names = {path.name for path in (tmp_path / "int8").iterdir()}
    assert names == {"tokenizer.json", *(f"{graph}.onnx" for graph in origin.graphs)}
