"""Indexing by workers of Ray: the rows of one process, also where a worker is killed."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import msgspec
import pytest

from r2rt.archive.library import Archive
from r2rt.archive.maintenance import check_tables
from r2rt.archive.ray_workers import RayOptions, _Worker
from r2rt.archive.settings import Settings
from r2rt.errors import ModelMismatchError
from r2rt.grounding.grounder import Grounder
from tests.r2rt.archive.colours import make_colours
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO

pytest.importorskip("ray", reason="Ray is not installed; pip install 'r2rt[ray]'")


def rows(archive: Archive, table: str, *columns: str) -> list[tuple[object, ...]]:
    """Return the rows of a table with the name of the video in place of the entry, in order."""
    names = {row["entry"]: Path(row["path"]).name for row in archive.videos()}
    found = dict(archive.tables.all())[table].rows(["entry", *columns])  # type: ignore[index]
    return sorted(
        (names[row["entry"]], *(str(row[column]) for column in columns))
        for row in found.to_pylist()
    )


def workers() -> set[int]:
    """Return the ids of the processes that encode, which are named after their class."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(b"ray::_Worker"):
            found.add(int(folder.name))
    return found


def test_a_worker_with_another_model_encodes_nothing(tmp_path: Path) -> None:
    """Such as the other form of the model, which another machine may prefer."""
    options = RayOptions(address="local", workers=1, model="demo", device="cpu")
    with Grounder.load("demo", device="cpu", precision=None) as grounder:
        settings = Settings.of(grounder.bundle, model="demo", width=8)
    _Worker(options, str(tmp_path), msgspec.json.encode(settings))
    other = msgspec.structs.replace(settings, model_fingerprint="0" * 32)
    with pytest.raises(ModelMismatchError):
        _Worker(options, str(tmp_path), msgspec.json.encode(other))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves its own pipes open
def test_rows_are_those_of_one_process_although_a_worker_is_killed(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    make_colours(videos)
    shutil.copy(videos / "beach.mp4", videos / "copy.mp4")
    shutil.copy(DEMO_VIDEO, videos / "shapes.mp4")
    (videos / "broken.mp4").write_bytes(b"no video")
    alone = Archive.open(tmp_path / "alone", model=DEMO_BUNDLE, device="cpu")
    alone.add(videos)
    together = Archive.open(tmp_path / "together", model=DEMO_BUNDLE, device="cpu")
    killed: list[int] = []
    before = workers()

    def kill_one() -> None:
        while not killed:
            for process in workers() - before:
                os.kill(process, signal.SIGKILL)
                killed.append(process)
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    report = together.add(videos, ray="local", workers=2)
    killer.join(timeout=5)
    assert len(killed) == 1
    assert (report.added, report.copied, len(report.failed)) == (4, 1, 1)
    assert check_tables(together.tables).faults == []
    for table, columns in (("clips", ("row", "vector")), ("tokens", ("first", "clips", "data"))):
        assert rows(together, table, *columns) == rows(alone, table, *columns)
    alone.close()
    together.close()
