from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.training.extraction.material import write_clip, write_videos

# Ray needs seconds to start on two idle cores, minutes on busy ones.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
VIDEOS = 6


def command(videos: Path, clip: Path, out: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "training.extract", str(videos), "--model", str(clip)),
        *("--out", str(out), "--fps", "10", *options),
    ]


def environment(mark: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(CHECKOUT), "R2RT_TEST_RUN": mark}


def run(arguments: list[str], mark: str) -> str:
    """Run to the end and return what was said on stderr."""
    ended = subprocess.run(
        arguments, env=environment(mark), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def processes(mark: str) -> list[int]:
    """Every process of a run that is alive: the driver, Ray's own, and the workers."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if f"R2RT_TEST_RUN={mark}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def kill_all(mark: str) -> int:
    """SIGKILL every process of a run, as a power cut would; return how many there were."""
    found = processes(mark)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


def all_gone(mark: str) -> bool:
    """Whether the processes of a run end within a minute of its own end."""
    for _ in range(600):
        if not processes(mark):
            return True
        time.sleep(0.1)
    return False


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_killed_half_way_and_resumed_by_ray_is_the_same_as_in_one_go(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos", VIDEOS, frames=200)
    clip = write_clip(tmp_path / "clip.safetensors")
    out, whole = tmp_path / "out", tmp_path / "whole"
    by_ray = command(videos, clip, out, "--ray", "--workers", "1")

    mark = uuid.uuid4().hex
    with subprocess.Popen(by_ray, env=environment(mark)) as process:
        try:
            while not list(out.glob("*_vid_k4/v*.source")):
                assert process.poll() is None, "ended before it had made anything"
                time.sleep(0.002)
        finally:
            # The command, Ray's own processes and the worker.
            assert kill_all(mark) >= 3
            while kill_all(mark):
                time.sleep(0.1)
        assert process.wait() == -signal.SIGKILL
    # Features are done once it is noted what they were made of.
    finished = [path.with_suffix(".npy") for path in out.glob("*_vid_k4/v*.source")]
    done = {path: path.stat().st_mtime_ns for path in finished}
    assert 0 < len(done) < VIDEOS

    said = run(by_ray, mark)
    assert f"{VIDEOS - len(done)} of {VIDEOS} jobs to do" in said
    # What was finished was not made again.
    assert {path: path.stat().st_mtime_ns for path in done} == done

    run(command(videos, clip, whole, "--workers", "0"), mark)
    assert digests(out) == digests(whole)
    assert len(digests(out)) == 2 * VIDEOS + 1
    assert all_gone(mark), "processes were left behind"
