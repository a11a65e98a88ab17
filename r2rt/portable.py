"""What differs between operating systems: locks, replacing files, processes, signals, memory."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

__all__ = [
    "exchange",
    "give_back_freed_memory",
    "handler_kept",
    "has_input",
    "locked",
    "may_read_terminal",
    "output_encoding",
    "process_exists",
    "replace",
    "sync_file",
    "sync_folder",
    "terminations_interrupt",
    "usable_cores",
]

# Windows refuses to replace a file that another process has open or mapped, even a virus scanner.
_REPLACE_TRIES = 20
_REPLACE_WAIT_S = 0.05
_WORKING_FOLDER, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_STILL_ACTIVE = 259
_NO_SUCH_PROCESS = 87  # ERROR_INVALID_PARAMETER
_QUERY_LIMITED_INFORMATION = 0x1000
_CGROUPS = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock that other threads and processes wait for; the system frees it if we are killed.

    Args:
        path: the lock's file, in a folder that exists; it is removed at the end.
        waiting: called once if another has the lock.

    Raises:
        OSError: the file cannot be written.
    """
    import filelock

    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if waiting is not None:
            waiting()
        lock.acquire()
    try:
        yield
    finally:
        # Removed while it is held: who waited for it sees that it is gone, and makes it anew.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def replace(source: Path, destination: Path) -> None:
    """Put a file in the place of another at once; on Windows wait shortly for those who read it.

    Raises:
        OSError: it cannot be replaced.
    """
    for left in range(_REPLACE_TRIES, -1, -1):
        try:
            source.replace(destination)
        except PermissionError:
            if not left or not _is_windows() or destination.is_dir():
                raise
            time.sleep(_REPLACE_WAIT_S)
        else:
            return


def exchange(first: Path, second: Path) -> bool:
    """Let two files or folders change places in one step; return whether the system could."""
    if sys.platform != "linux":
        return False
    import ctypes

    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:  # an old C library
        return False
    paths = (_WORKING_FOLDER, os.fsencode(first), _WORKING_FOLDER, os.fsencode(second))
    return not rename(*paths, _EXCHANGE)  # some file systems cannot, such as NFS


def give_back_freed_memory() -> None:
    """Give freed heap pages back to the system, where the C library can be asked to."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # a C library without it
            ctypes.CDLL(None).malloc_trim(0)


def sync_file(path: Path) -> None:
    """Make sure that a file's content survives a power failure.

    Raises:
        OSError: it cannot be opened, or the disk is full.
    """
    # Windows syncs only what can be written; elsewhere a copy may be read-only.
    handle = os.open(path, os.O_RDWR if _is_windows() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make sure that names in a folder survive a power failure, where the system can."""
    if _is_windows():  # a folder cannot be opened there, and names are journalled
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def process_exists(pid: int) -> bool:
    """Return whether a process of this machine runs; true if it cannot be found out."""
    if _is_windows():
        return _windows_process_exists(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def may_read_terminal(terminal: TextIO) -> bool:
    """Return whether this process may read a terminal; a background job would be stopped."""
    if _is_windows():
        return True
    try:
        return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False  # another terminal than the one that controls this process


def has_input(source: TextIO | int, timeout_s: float) -> bool:
    """Wait until a terminal or pipe has something to read, or ends; on Windows return true at once.

    Args:
        source: the terminal, or a file descriptor.
        timeout_s: the longest wait.
    """
    return _is_windows() or bool(select.select([source], [], [], timeout_s)[0])


def usable_cores() -> int:
    """Return how many processors this process may keep busy, 1 or more.

    A container may have less of their time than it sees of them: part of one counts as one.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    # Microseconds of processor in so many of the clock; "max" and -1 are no limit.
    for quota, period in (
        ("cpu.max", None),
        ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"),
    ):
        with contextlib.suppress(OSError, ValueError):
            words = (_CGROUPS / quota).read_text().split()
            if period is not None:
                words += (_CGROUPS / period).read_text().split()
            used_us, of_us = map(int, words)
            if used_us > 0 and of_us > 0:
                cores = min(cores, math.ceil(used_us / of_us))
    return cores


def output_encoding(stream: TextIO) -> str | None:
    """Return the encoding that a stream must be given to write UTF-8; None for the one it has.

    In a pipe or a file, Windows uses its code page, which has few of the world's letters.
    """
    if not _is_windows() or stream.isatty() or os.environ.get("PYTHONIOENCODING"):
        return None
    return "utf-8"


@contextlib.contextmanager
def handler_kept(number: int) -> Iterator[None]:
    """Restore a signal's handler after the block, which may set another.

    Outside the main thread, where Python permits no handlers, nothing is changed.
    """
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(number, before)


@contextlib.contextmanager
def terminations_interrupt() -> Iterator[None]:
    """Let SIGTERM (and Ctrl-Break of Windows) end the block as Ctrl-C does, cleaning up.

    Outside the main thread, where Python permits no handlers, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM, getattr(signal, "SIGBREAK", None)]
    before = {number: signal.signal(number, _interrupt) for number in numbers if number is not None}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _is_windows() -> bool:
    return sys.platform == "win32"


def _windows_process_exists(pid: int) -> bool:
    # os.kill would end it: on Windows every signal does.
    import ctypes

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]
    handle = kernel.OpenProcess(_QUERY_LIMITED_INFORMATION, False, ctypes.c_ulong(pid))
    if not handle:  # one of another user may not be opened, but runs
        error: int = ctypes.get_last_error()  # type: ignore[attr-defined,unused-ignore]
        return error != _NO_SUCH_PROCESS
    code = ctypes.c_ulong()
    known = kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return not known or code.value == _STILL_ACTIVE
