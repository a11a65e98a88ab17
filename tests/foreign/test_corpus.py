"""No media file is read otherwise than by the ffmpeg program without a word."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest

from tests.foreign.__main__ import RATES, line
from tests.foreign.judge import judge, media_files
from tests.r2rt.video.oracle import needs_ffmpeg

CHECKOUT = Path(__file__).parents[2]
OURS = [*media_files(CHECKOUT / "tests"), *media_files(CHECKOUT / "demo")]


@needs_ffmpeg
@pytest.mark.parametrize("fps", RATES, ids=str)
@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_files_of_the_checkout(path: Path, fps: Fraction) -> None:
    verdict = judge(path, fps)
    assert verdict.kind in {"same", "close"}, line(verdict)


@needs_ffmpeg
def test_the_corpus() -> None:
    folder = os.environ.get("R2RT_CORPUS")
    if not folder:
        pytest.skip("R2RT_CORPUS names no folder of media; nothing foreign was tried")
    files = media_files(Path(folder))
    assert files, f"{folder}: no media files"
    silent = [v for path in files for fps in RATES if (v := judge(path, fps)).is_silent]
    assert not silent, "\n".join(map(line, silent))
