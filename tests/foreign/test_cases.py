"""Files that were once read wrong, against the ffmpeg program."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign.__main__ import RATES, line
from tests.foreign.judge import judge
from tests.r2rt.video.oracle import needs_ffmpeg

# What is reported of each: the ffmpeg program closes the same leaps, and says so too.
CASES = {
    "exif.avi": "",
    "field_coded_avchd.mts": "",
    "gap.ts": "the clock leaps once, by 3579.8 s",
    "gray8.mov": "",
    "joined.ts": "the clock leaps once, by 20.0 s",
    "mv_hevc_spatial.mp4": "",
    "pal8.avi": "",
}


@needs_ffmpeg
@pytest.mark.shared("cases/inputs")
@pytest.mark.parametrize("name", CASES)
def test_every_pixel_is_that_of_ffmpeg(name: str, shared: Path) -> None:
    for fps in RATES:
        verdict = judge(shared / name, fps)
        assert verdict.kind == "same", line(verdict)
        assert any(CASES[name] in text for text in verdict.reported or ("",)), line(verdict)


@pytest.mark.shared("cases/inputs")
def test_every_case_is_tried(shared: Path) -> None:
    found = {path.name for path in shared.iterdir() if path.suffix in {".avi", ".mov", ".mp4"}}
    assert found | {"gap.ts", "joined.ts", "field_coded_avchd.mts"} == set(CASES)
