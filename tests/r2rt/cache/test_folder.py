"""The cache's limit holds at every moment, and nothing is left of those who were killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from r2rt.cache.folder import CacheFolder


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def writer(size: int, seen: list[int], folder: Path) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(bytes(size))
        seen.append(bytes_in(folder))

    return write


def test_room_is_made_before_anything_is_written(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path, 1000, ".x")
    seen: list[int] = []
    for name in "abcdefgh":
        assert cache.put(name, 300, writer(300, seen, tmp_path))
        assert cache.path(name).stat().st_size == 300
    assert max(seen) == 900
    assert [entry.size for entry in cache.entries()] == [300] * 3


def test_what_is_larger_than_it_said_is_not_kept(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path, 1000)
    assert not cache.put("a", 100, lambda path: path.write_bytes(bytes(101)))
    assert not cache.put("b", 501, lambda path: path.write_bytes(b""))
    assert list(tmp_path.iterdir()) == []


def test_an_entry_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path, 1000)

    def fail(path: Path) -> None:
        path.mkdir()
        (path / "half").write_bytes(b"half")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        cache.put("a", 100, fail)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path, 1000)
    assert cache.put("a", 10, lambda path: path.write_bytes(b"first"))
    assert cache.put("a", 10, lambda path: path.write_bytes(b"second"))
    assert cache.path("a").read_bytes() == b"first"


def test_the_next_entry_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from r2rt.cache.folder import CacheFolder\n"
        "def write(path):\n"
        "    path.mkdir() if sys.argv[2] == 'folder' else path.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "CacheFolder(Path(sys.argv[1]), 1000).put('a', 10, write)\n"
    )
    for kind in ("file", "folder"):
        run = subprocess.run([sys.executable, "-c", code, str(tmp_path), kind], check=False)
        assert run.returncode == -9
    left = [path.name for path in tmp_path.iterdir()]
    assert any(name.startswith(".a.r2rt-") for name in left)
    cache = CacheFolder(tmp_path, 1000)
    assert cache.put("b", 10, lambda path: path.write_bytes(b"b"))
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_touched_entry_is_the_last_to_go(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path, 1000)
    for age, name in enumerate("ab"):
        cache.put(name, 400, lambda path: path.write_bytes(bytes(400)))
        os.utime(cache.path(name), (age, age))
    cache.touch("a")
    cache.put("c", 400, lambda path: path.write_bytes(bytes(400)))
    assert {entry.path.name for entry in cache.entries()} == {"a", "c"}
