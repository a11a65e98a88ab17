"""The Python code of the engineers' page passes `mypy --strict` and runs on the demo model."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest

import r2rt
from tests.conftest import CHECKOUT

SECONDS = 8


@pytest.fixture(scope="module")
def code() -> str:
    text = (CHECKOUT / "docs" / "guides" / "engineer.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def copy_start(path: Path) -> None:
    """Copy the first seconds of the demo video."""
    with (
        av.open(str(CHECKOUT / "demo" / "emoji.mp4")) as source,
        av.open(str(path), "w") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.dts * packet.time_base < SECONDS:
                packet.stream = stream
                target.mux(packet)


@pytest.mark.slow
def test_the_code_has_strict_types(tmp_path: Path, code: str) -> None:
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    # With the project's options its cache serves, which `make test` has just filled.
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml"]
    result = subprocess.run(
        [*command, str(tmp_path / "example.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
    )
    # Of r2rt itself only what the example sees counts: its own files are checked by `make test`.
    problems = [line for line in result.stdout.splitlines() if "example.py" in line]
    assert problems == []
    assert "error:" not in result.stderr


@pytest.mark.slow
def test_the_code_runs_on_the_demo_model(tmp_path: Path, code: str) -> None:
    for name in ("video.mp4", "a.mp4", "video.ts"):
        copy_start(tmp_path / name)
    shutil.copy(tmp_path / "a.mp4", tmp_path / "b.mp4")
    live = '"rtsp://camera/stream", ["a person falls"]'
    assert live in code
    code = code.replace('"qvhighlights"', repr(str(Path(r2rt.__file__).parent / "demo")))
    # Two seconds of a file replace the camera.
    code = "from r2rt.live import SourceOptions\n" + code.replace(
        live, '"video.ts", ["a panda"], duration_s=2, options=SourceOptions(realtime=True)'
    )
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "example.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    )
    assert result.returncode == 0, result.stderr
    assert "a.mp4 [Prediction(" in result.stdout
    assert "b.mp4 [Prediction(" in result.stdout
    for made in ("video.r2rt", "report.html", "clips"):
        assert (tmp_path / made).exists()
    assert any((tmp_path / "clips").glob("*.mp4"))
