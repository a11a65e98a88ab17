"""Files appear whole or not at all, and what a killed process left is removed by the next one."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r2rt import portable
from r2rt.cli import spool
from r2rt.errors import OutputError, SourceNotFoundError
from r2rt.files import as_text, remove_orphans, replace_folder, replacing, temporary_beside
from r2rt.model.bundle_writer import staged_folder
from r2rt.portable import locked, process_exists, terminations_interrupt


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_texts_are_written_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("ascii"))
    assert as_text("▁▂▃ ü") == "▁▂▃ ü"
    assert as_text(b"a\xff.mp4".decode(errors="surrogateescape")) == "a\ufffd.mp4"


def write_and_fail(path: Path, error: type[BaseException]) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        raise error


def test_a_file_appears_with_the_permissions_of_a_new_one(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a") as temporary:
            assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
            temporary.write_bytes(b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OutputError if error is OSError else error):
        write_and_fail(tmp_path / "a", error)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names_in(tmp_path) == ["a"]


def test_a_name_as_long_as_a_name_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)
    with replacing(path) as temporary:
        temporary.write_bytes(b"x")
    assert path.read_bytes() == b"x"


KILLED = """
import os, signal, sys
from pathlib import Path
from r2rt.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_process_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], check=False)
    assert run.returncode == -signal.SIGKILL
    (left,) = names_in(tmp_path)
    assert left.startswith(".a.")
    mine = temporary_beside(tmp_path / "b")
    mine.write_bytes(b"still being written")
    foreign = [".a.r2rt-00000000-1-00000000", ".hidden", ".a.abcdefgh", "a.part"]
    for name in foreign:
        (tmp_path / name).write_bytes(b"not ours")
    assert remove_orphans(tmp_path) == 1
    assert set(names_in(tmp_path)) == {mine.name, *foreign}


def test_a_command_removes_it_by_writing_there(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], check=False)
    code = KILLED.replace("os.kill", "pass  #")
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True)
    assert names_in(tmp_path) == ["b"]


def test_processes_that_run_and_that_do_not() -> None:
    assert process_exists(os.getpid())
    assert process_exists(1)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not process_exists(child.pid)
    assert process_exists(10**12)  # no number of a process: nothing is known of it


class TestLock:
    def test_one_thread_at_a_time(self, tmp_path: Path) -> None:
        inside, most, waited = 0, 0, []
        counting = threading.Lock()

        def work() -> None:
            nonlocal inside, most
            for _ in range(5):
                with locked(tmp_path / "lock", lambda: waited.append(1)):
                    with counting:
                        inside += 1
                        most = max(most, inside)
                    time.sleep(0.002)
                    with counting:
                        inside -= 1

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == 1
        assert waited
        assert names_in(tmp_path) == []

    def test_a_killed_holder_does_not_block(self, tmp_path: Path) -> None:
        code = (
            "import os, signal, sys\nfrom pathlib import Path\nfrom r2rt.portable import locked\n"
            "with locked(Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        path = tmp_path / "lock"
        subprocess.run([sys.executable, "-c", code, str(path)], check=False)
        assert path.exists()
        with locked(path, lambda: pytest.fail("nobody has it")):
            pass
        assert not path.exists()


class TestWindows:
    """What Windows does otherwise, as far as another system can show it."""

    @pytest.fixture(autouse=True)
    def on_windows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(portable, "_is_windows", lambda: True)
        monkeypatch.setattr(portable, "_REPLACE_WAIT_S", 0.0)

    def refuse(self, monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
        """Let the first `times` replacements fail, as while another process maps the file."""
        replace, tried = Path.replace, [0]

        def refused(self: Path, target: Path) -> Path:
            tried[0] += 1
            if tried[0] <= times:
                raise PermissionError(13, "used by another process")
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", refused)
        return tried

    def test_a_file_that_is_read_is_replaced_a_little_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.refuse(monkeypatch, 3)
        with replacing(tmp_path / "a") as temporary:
            temporary.write_bytes(b"new")
        assert (tmp_path / "a").read_bytes() == b"new"

    def test_a_file_that_stays_open_is_an_output_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a").write_bytes(b"old")
        tried = self.refuse(monkeypatch, 10**9)
        with (
            pytest.raises(OutputError, match="used by another process"),
            replacing(tmp_path / "a") as temporary,
        ):
            temporary.write_bytes(b"new")
        assert (tmp_path / "a").read_bytes() == b"old"
        assert names_in(tmp_path) == ["a"]
        assert tried == [portable._REPLACE_TRIES + 1]

    def test_elsewhere_it_is_an_error_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(portable, "_is_windows", lambda: False)
        tried = self.refuse(monkeypatch, 10**9)
        with pytest.raises(OutputError), replacing(tmp_path / "a"):
            pass
        assert tried == [1]

    def test_folders_are_not_synced(self, tmp_path: Path) -> None:
        portable.sync_folder(tmp_path / "none")

    def test_a_file_is_synced_by_a_handle_that_can_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Windows refuses to sync through another one, and to open a folder."""
        sync, flags = os.fsync, []

        def checked(handle: int) -> None:
            flags.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE)
            sync(handle)

        monkeypatch.setattr(os, "fsync", checked)
        with staged_folder(tmp_path / "bundle") as folder:
            (folder / "inside").mkdir()
            (folder / "inside" / "file").write_bytes(b"x")
        assert flags == [os.O_RDWR]

    @pytest.mark.parametrize(("error", "runs"), [(87, False), (5, True)])
    def test_a_process_that_may_not_be_asked_runs(
        self, monkeypatch: pytest.MonkeyPatch, error: int, runs: bool
    ) -> None:
        class Kernel:
            def __init__(self, *_: object, **__: object) -> None:
                pass

            def OpenProcess(self, *_: object) -> int:  # noqa: N802
                return 0

        monkeypatch.setattr(ctypes, "WinDLL", Kernel, raising=False)
        monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=Kernel()), raising=False)
        monkeypatch.setattr(ctypes, "get_last_error", lambda: error, raising=False)
        assert process_exists(7) == runs

    def test_a_pipe_is_read_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There `select` takes sockets alone."""
        reader, writer = os.pipe()
        os.write(writer, b"video")
        monkeypatch.setattr(select, "select", lambda *_: pytest.fail("refused"))
        assert spool._read(reader) == b"video"
        os.close(writer)
        assert spool._read(reader) == b""
        os.close(reader)

    def test_a_process_is_asked_for_without_a_signal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(portable, "_windows_process_exists", lambda pid: pid == 7)
        monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("this ends it"))
        assert process_exists(7)
        assert not process_exists(8)


def test_a_termination_cleans_up_and_ends_as_an_interrupt(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        with terminations_interrupt(), replacing(tmp_path / "a"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert names_in(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_thread_leaves_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with terminations_interrupt():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_an_error_of_a_source_stays_what_it_is(tmp_path: Path) -> None:
    with (
        pytest.raises(SourceNotFoundError, match="the source"),
        replacing(tmp_path / "a"),
    ):
        raise SourceNotFoundError("the source is gone")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no such pipes")
def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(OutputError, match="not a file"), replacing(path) as temporary:
            temporary.write_bytes(b"new")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert link.is_symlink()


def test_threads_that_write_leave_the_permissions_of_new_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_umask = os.umask

    def slow(mask: int) -> int:
        before = set_umask(mask)
        time.sleep(0.05)  # the other thread runs
        return before

    def write(name: str) -> None:
        with replacing(tmp_path / name) as temporary:
            temporary.write_bytes(b"x")

    before = set_umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", slow)
        threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
        for thread in threads:
            thread.join()
        (tmp_path / "c").touch()
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "abc"}
        assert modes == {0o640}
    finally:
        set_umask(before)


def test_a_folder_comes_back_if_its_place_cannot_be_taken(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").touch()
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "none", tmp_path / "old")
    assert names_in(tmp_path) == ["old"]
    assert names_in(tmp_path / "old") == ["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot exchange two folders")
def test_at_every_moment_one_of_two_folders_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill at any of them leaves a model, and who opens it meanwhile finds one."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    seen = []

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*arguments: Any, **options: Any) -> Any:
            found = work(*arguments, **options)
            seen.append((tmp_path / "old" / "file").read_text())
            return found

        return watch

    monkeypatch.setattr(Path, "rename", watched(Path.rename))
    monkeypatch.setattr(shutil, "rmtree", watched(shutil.rmtree))
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert set(seen) == {"new"}
    assert names_in(tmp_path) == ["old"]


@pytest.mark.parametrize("swapped", [True, False])
def test_a_link_to_a_folder_is_replaced_and_the_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: bool
) -> None:
    if not swapped:
        monkeypatch.setattr("r2rt.files.exchange", lambda *_: False)
    for name in ("elsewhere", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "model").symlink_to(tmp_path / "elsewhere")
    replace_folder(tmp_path / "new", tmp_path / "model")
    assert (tmp_path / "model" / "file").read_text() == "new"
    assert (tmp_path / "elsewhere" / "file").read_text() == "elsewhere"
