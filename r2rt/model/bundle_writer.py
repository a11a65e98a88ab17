"""Puts a bundle's folder in place whole, or leaves everything as it was."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from r2rt.errors import BundleDamagedError, OutputError, R2rtError
from r2rt.files import remove_orphans, replace_folder, temporary_beside, umask
from r2rt.model.bundle import file_entry
from r2rt.model.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    manifest_bytes,
    parse_manifest,
)
from r2rt.portable import sync_file, sync_folder

__all__ = ["check_destination", "list_files", "staged_folder", "write_manifest"]


def check_destination(destination: Path, *, force: bool) -> None:
    """Check that a bundle may be put at `destination`, before any work is done for it.

    Raises:
        OutputError: something stands there, and either `force` is off or it is no bundle.
    """
    if not destination.exists():
        return
    if not force:
        raise OutputError(f"{destination} exists; replace it with --force or name another --output")
    if not destination.is_dir() or (
        any(destination.iterdir()) and not (destination / MANIFEST_NAME).exists()
    ):
        raise OutputError(
            f"{destination} is no bundle (no {MANIFEST_NAME} in it), so it is not replaced; "
            "name another --output"
        )


@contextlib.contextmanager
def staged_folder(destination: Path, *, force: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `destination` that takes its place when the block ends well.

    If the block raises or is interrupted, the folder is removed and the destination stays.

    Raises:
        OutputError: the destination may not be written, or the disk is full.
    """
    check_destination(destination, force=force)
    staged: Path | None = None
    try:
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            remove_orphans(destination.parent)
            staged = temporary_beside(destination)
            staged.mkdir(0o700)
            yield staged
            _sync(staged)
            _open_up(staged)
            check_destination(destination, force=force)
            replace_folder(staged, destination)
        finally:
            if staged is not None:
                shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        if isinstance(error, R2rtError):
            raise
        reason = error.strerror or error
        raise OutputError(
            f"{destination}: cannot be written ({reason}); free the disk or name another --output"
        ) from error


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Return size and sha256 of every file in a bundle's folder, the manifest left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: file_entry(path) for name, path in names.items() if name != MANIFEST_NAME}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `bundle.json`: the last file, so that a folder without it is no bundle.

    Raises:
        OutputError: it says what no bundle may say, so that nothing could open it.
    """
    text = manifest_bytes(manifest)
    try:
        parse_manifest(text, where=MANIFEST_NAME)
    except BundleDamagedError as error:
        problem = str(error).partition("; ")[0]
        raise OutputError(f"nothing could open the bundle: {problem}") from error
    (folder / MANIFEST_NAME).write_bytes(text)


def _sync(folder: Path) -> None:
    """Flush files and folders to the disk, so that the rename never outlives their content."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync_file(path)
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def _open_up(folder: Path) -> None:
    """Give the folder, which is private while it is written, the permissions of a new one."""
    folder.chmod(0o777 & ~umask())
