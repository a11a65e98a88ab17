"""Files that are either written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from r2rt.errors import OutputError

__all__ = ["StrPath", "as_text", "replacing"]

StrPath: TypeAlias = str | os.PathLike[str]

# A name has 255 bytes at most; so many of it tell whose a temporary file is.
_TOLD_BYTES = 100


def as_text(name: str | os.PathLike[str]) -> str:
    """Return a path as text that can be written; a byte that is not UTF-8 becomes a mark."""
    return os.fsencode(name).decode(errors="replace")


@contextlib.contextmanager
def replacing(destination: Path) -> Iterator[Path]:
    """Give a temporary path in the destination's folder that replaces it when the block ends well.

    If the block raises, the temporary file is removed and the destination stays as it was.

    Raises:
        OutputError: the folder is not there, not writable, or the disk is full.
    """
    temporary: Path | None = None
    try:
        told = os.fsencode(destination.name)[:_TOLD_BYTES].decode(errors="ignore")
        handle, name = tempfile.mkstemp(prefix=f".{told}.", dir=destination.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; what replaces a file gets the permissions of a new one.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(destination)
        temporary = None
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"{destination}: cannot be written ({error.strerror or error}); "
            "choose another place or free some space"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
