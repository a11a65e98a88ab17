"""`r2rt index --watch`: what appears, changes and goes below a folder, until it is interrupted."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from r2rt.archive.library import Archive
from tests.conftest import CHECKOUT

_MODEL = CHECKOUT / "r2rt" / "demo"
_PATIENCE_S = 60.0


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + _PATIENCE_S
    while not condition():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < ends
        time.sleep(0.1)


@pytest.mark.slow
def test_a_followed_folder_stays_up_to_date(tmp_path: Path) -> None:
    videos, library = tmp_path / "videos", tmp_path / "library"
    videos.mkdir()
    shutil.copy(CHECKOUT / "demo" / "shapes.mp4", videos / "first.mp4")

    def ready() -> set[str]:
        if not (library / "videos.lance").is_dir():
            return set()
        return {Path(row["path"]).name for row in Archive.open(library).videos("state = 'ready'")}

    command = [sys.executable, "-m", "r2rt", "index", str(library), str(videos), "--watch"]
    with subprocess.Popen(
        [*command, "--model", str(_MODEL)], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("r2rt: following") or "following" in line:
                    break
            assert ready() == {"first.mp4"}
            shutil.copy(CHECKOUT / "demo" / "emoji.mp4", tmp_path / "new.mp4")
            (tmp_path / "new.mp4").rename(videos / "new.mp4")
            wait_until(lambda: ready() == {"first.mp4", "new.mp4"}, process)
            (videos / "first.mp4").unlink()
            wait_until(lambda: ready() == {"new.mp4"}, process)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60)[1] is not None
            assert process.returncode == 130
        finally:
            process.kill()
