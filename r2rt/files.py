"""Files that are either written whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from r2rt.errors import OutputError, R2rtError
from r2rt.portable import exchange, process_exists, replace, sync_file

__all__ = [
    "StrPath",
    "as_text",
    "check_destinations",
    "check_folder",
    "remove_orphans",
    "replace_folder",
    "replacing",
    "temporary_beside",
    "umask",
]

StrPath: TypeAlias = str | os.PathLike[str]

_IMAGES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
# A name has 255 bytes at most; this many of them are kept in the name of a temporary file.
_KEPT_BYTES = 100
_UMASK = threading.Lock()
# `.NAME.r2rt-MACHINE-PID-RANDOM`, so that others can find out whether it is still written.
_TEMPORARY = re.compile(r"\..*\.r2rt-([0-9a-f]{8})-([0-9]{1,10})-[0-9a-f]{8}")


def as_text(name: str | os.PathLike[str]) -> str:
    """Return a path as text that can be written; a byte that is not UTF-8 becomes a mark."""
    # Not `os.fsencode`, which writes in the locale's encoding: a text may have other letters.
    escape = "surrogatepass" if os.name == "nt" else "surrogateescape"
    return os.fspath(name).encode("utf-8", escape).decode(errors="replace")


def check_destinations(
    paths: Iterable[StrPath],
    inputs: Iterable[StrPath] = (),
    *,
    made: Iterable[StrPath] = (),
) -> None:
    """Check that files can be written at these paths, and that none would overwrite an input.

    Files are compared by device and inode, so symbolic and hard links to an input are refused too,
    and so are images in a folder that is an input.

    Args:
        paths: files to write.
        inputs: files to read.
        made: folders that are made before anything is written into them.

    Raises:
        OutputError: a folder does not exist, a name is too long, or a path is a folder or an input.
    """
    coming = {Path(folder).absolute() for folder in made}
    names: dict[tuple[int, int], StrPath] = {}
    for name in inputs:
        with contextlib.suppress(OSError):
            names[_identity(Path(name).stat())] = name
    for path in map(Path, paths):
        try:
            status: os.stat_result | None = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            status = None
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written ({error.strerror}); choose another name"
            ) from error
        if status is None:
            if not path.parent.is_dir() and path.parent.absolute() not in coming:
                raise OutputError(f"{path}: there is no folder {path.parent}; make it first")
            continue
        if stat.S_ISDIR(status.st_mode):
            raise OutputError(f"{path}: a folder; give the name of a file in it")
        found = names.get(_identity(status))
        if found is None and names and path.suffix.lower() in _IMAGES:
            found = names.get(_identity(path.parent.stat()))
        if found is not None and not stat.S_ISCHR(status.st_mode):
            raise OutputError(f"{path}: is the input {found}; write to another file")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def check_folder(folder: StrPath) -> None:
    """Check that a path is a folder, or free for one.

    Raises:
        OutputError: it is a file, or the name is too long.
    """
    folder = Path(folder)
    try:
        status = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return  # what is in the way is found when the folder is made
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be a folder ({error.strerror}); choose another place"
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{folder}: a file, not a folder; choose another place")


@contextlib.contextmanager
def replacing(destination: Path) -> Iterator[Path]:
    """Give a temporary path in the destination's folder that replaces it when the block ends well.

    If the block raises, the temporary file is removed and the destination stays as it was. What
    killed processes left in the folder is removed the first time that this process writes there.

    Raises:
        OutputError: the folder is not there, not writable, or the disk is full; or a pipe or a
            device is at the destination.
    """
    temporary: Path | None = None
    _check_replaceable(destination)
    try:
        _clean_once(destination.parent.absolute())
        new = temporary_beside(destination)
        # Private while it is written; exclusive, since it must not be somebody's link.
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        temporary = new
        yield temporary
        sync_file(temporary)
        # What replaces a file gets the permissions of a new one.
        temporary.chmod(0o666 & ~umask())
        replace(temporary, destination)
        temporary = None
    except OSError as error:
        if isinstance(error, R2rtError):  # such as an error of a source that is read meanwhile
            raise
        raise OutputError(
            f"{destination}: cannot be written ({error.strerror or error}); "
            "choose another place or free some space"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def replace_folder(source: Path, destination: Path) -> None:
    """Replace a file or folder by a folder; the old one comes back if that fails.

    On Linux there is no moment at which nothing is there.

    Raises:
        OSError: it cannot be moved.
    """
    if not destination.exists():
        source.rename(destination)
        return
    old = temporary_beside(destination)
    if exchange(source, destination):
        source.rename(old)
    else:
        destination.rename(old)
        try:
            source.rename(destination)
        except BaseException:
            old.rename(destination)
            raise
    shutil.rmtree(old, ignore_errors=True)


def umask() -> int:
    """Return the permissions that new files do not get."""
    # It can only be read by setting it. Two threads at once would leave what one of them set, and
    # a file that a third one makes meanwhile must not be open to everybody.
    with _UMASK:
        found = os.umask(0o077)
        os.umask(found)
    return found


def temporary_beside(destination: Path) -> Path:
    """Return a new name for what will replace `destination`; `remove_orphans` knows such names."""
    kept = os.fsencode(destination.name)[:_KEPT_BYTES].decode(errors="ignore")
    return destination.with_name(f".{kept}.r2rt-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}")


def remove_orphans(folder: Path) -> int:
    """Remove temporary files and folders of processes that no longer run; return how many.

    Those of other machines, which may share the folder, are left alone.
    """
    removed = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match is None or match[1] != _machine() or process_exists(int(match[2])):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108  an entry has a name, not a path
            removed += 1
    return removed


def _check_replaceable(destination: Path) -> None:
    """Raise `OutputError` for a pipe or device: root would replace /dev/null for everybody."""
    try:
        mode = destination.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OutputError(f"{destination}: a pipe or a device, not a file; choose another name")


@functools.lru_cache(maxsize=1024)
def _clean_once(folder: Path) -> None:
    remove_orphans(folder)


@functools.cache
def _machine() -> str:
    """Return a token of this machine, and of this container, whose processes have numbers alike."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  not the path of a file
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]
