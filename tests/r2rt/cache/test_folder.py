"""The cache's limit holds at every moment, and nothing is left of those who were killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from r2rt.cache.folder import CacheFolder, Entry, cache_dir


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


def test_a_folder_of_one_process_is_seldom_listed_and_keeps_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "before").write_bytes(bytes(500))
    cache = CacheFolder(tmp_path, 1600, alone=True)
    entries, listed, most = CacheFolder.entries, 0, 0

    def counted(it: CacheFolder) -> list[Entry]:
        nonlocal listed
        listed += 1
        return entries(it)

    monkeypatch.setattr(CacheFolder, "entries", counted)
    for number in range(60):
        assert cache.put(f"{number}", 30, lambda path: path.write_bytes(bytes(30)))
        os.utime(cache.path(f"{number}"), ns=(number, number))
        most = max(most, bytes_in(tmp_path))
    assert 1400 < most <= 1600
    assert listed < 20
    left = {path.name for path in tmp_path.iterdir()}
    assert {"before", "59"} <= left  # the file from before is younger than all
    assert "0" not in left


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


def keep(cache: CacheFolder, *entries: tuple[str, int]) -> None:
    """Put entries of these sizes, each used later than the one before."""
    for age, (name, size) in enumerate(entries):
        assert cache.put(name, size, writer(size, [], cache.folder))
        os.utime(cache.path(name), (age, age))


def names(cache: CacheFolder) -> list[str]:
    return [entry.path.name for entry in cache.entries()]


def test_as_many_entries_go_as_the_new_one_needs_room_for(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path, 1000)
    keep(cache, ("a", 200), ("b", 200), ("c", 200), ("d", 200), ("e", 500))
    assert names(cache) == ["c", "d", "e"]


def test_nothing_goes_if_the_new_entry_just_fits(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path, 1000)
    keep(cache, ("a", 400), ("b", 400), ("c", 200))
    assert names(cache) == ["a", "b", "c"]


def test_an_entry_of_half_the_limit_is_kept(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path, 1000)
    keep(cache, ("a", 500))
    assert names(cache) == ["a"]


def test_other_files_in_the_folder_are_no_entries(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path, 1000, ".x")
    keep(cache, ("a", 10))
    (tmp_path / "notes.txt").write_text("no entry")
    (tmp_path / ".hidden.x").write_text("no entry")
    (tmp_path / "gone.x").symlink_to(tmp_path / "nowhere")
    assert names(cache) == ["a.x"]


def test_without_a_folder_there_are_no_entries(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path / "none", 1000)
    cache.touch("a")
    cache.discard("a")
    assert cache.entries() == []
    assert not cache.folder.exists()


def test_folders_are_made_as_far_down_as_needed(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path / "some" / "where", 1000)
    keep(cache, ("a", 10))
    assert names(cache) == ["a"]


def test_an_entry_may_be_a_folder_which_counts_as_its_files(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path, 1000)

    def write(path: Path) -> None:
        path.mkdir()
        (path / "one").write_bytes(bytes(40))
        (path / "two").write_bytes(bytes(60))

    assert not cache.put("a", 99, write)
    assert cache.put("a", 100, write)
    assert [entry.size for entry in cache.entries()] == [100]
    cache.discard("a")
    assert cache.entries() == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_cannot_be_removed_stays_without_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    cache = CacheFolder(tmp_path, 1000)
    assert cache.put("a", 10, Path.mkdir if kind == "folder" else Path.touch)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", denied)
        patch.setattr(os, "rmdir", denied)
        cache.discard("a")
    assert names(cache) == ["a"]


def test_a_link_to_a_folder_is_removed_and_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    cache = CacheFolder(tmp_path / "cache", 1000)
    cache.folder.mkdir()
    cache.path("a").symlink_to(tmp_path / "mine")
    cache.discard("a")
    assert cache.entries() == []
    assert (tmp_path / "mine" / "file").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other folders")
def test_the_cache_is_where_the_users_caches_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "elsewhere"))
    assert cache_dir() == tmp_path / "elsewhere"
    monkeypatch.delenv("R2RT_CACHE")
    assert cache_dir() == tmp_path / "r2rt"
