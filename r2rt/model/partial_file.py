"""A file that is being fetched: `NAME.part` beside its destination, resumed by the next run."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from r2rt.errors import OutputError
from r2rt.portable import locked, replace, sync_folder

__all__ = ["PartialFile", "locked_part", "output_error"]


class PartialFile:
    """The file that is being fetched, open and locked.

    Beside it lies `NAME.part.json`: where its bytes came from, and the version that they are of.
    """

    def __init__(self, destination: Path, path: Path, file: FileIO) -> None:
        self.destination = destination
        self.path = path
        self._file = file
        self._state_path = path.with_name(path.name + ".json")
        self._state = self._read_state()

    @property
    def size(self) -> int:
        """Bytes fetched so far."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def url(self) -> str | None:
        """Where these bytes came from; None if that is not known."""
        return self._state.get("url")

    @property
    def validator(self) -> str | None:
        """The strong ETag or the date by which the server named the version that lies here."""
        return self._state.get("validator")

    def restart(self, *, url: str, validator: str | None) -> None:
        """Drop what is there; what follows comes from this URL, in this version."""
        self._state = {"url": url, **({"validator": validator} if validator else {})}
        try:
            self._file.truncate(0)
            self._state_path.write_text(json.dumps(self._state), encoding="utf-8")
        except OSError as error:
            raise output_error(self.path, error) from error

    def write(self, data: bytes) -> None:
        """Append bytes."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise output_error(self.path, error) from error

    def sha256(self) -> str:
        """Return the hash of what is there."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()

    def land(self) -> None:
        """Move the complete file to its destination."""
        try:
            os.fsync(self._file.fileno())
            self._file.close()  # Windows moves no open file
            # First, so that a kill leaves nothing beside a file that no later run fetches again.
            self._state_path.unlink(missing_ok=True)
            replace(self.path, self.destination)
            sync_folder(self.destination.parent)
        except OSError as error:
            raise output_error(self.destination, error) from error

    def discard(self) -> None:
        """Remove what is there, which cannot be used."""
        self._file.close()
        self._state_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave what is there to the next run, if it is anything."""
        if self._file.closed:
            return
        if self.size:
            self._file.close()
        else:
            self.discard()

    def _read_state(self) -> dict[str, str]:
        try:
            state = json.loads(self._state_path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}  # without it the part is merely fetched again or left to its hash
        if not isinstance(state, dict):
            return {}
        return {key: value for key, value in state.items() if isinstance(value, str)}


@contextmanager
def locked_part(destination: Path) -> Iterator[PartialFile]:
    """Open the destination's part; other threads and processes wait for it.

    Raises:
        OutputError: it cannot be written.
    """
    path = destination.with_name(destination.name + ".part")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path.with_name(f".{path.name}.lock")))
            part = PartialFile(destination, path, stack.enter_context(FileIO(path, "a+")))
        except OSError as error:
            raise output_error(path, error) from error
        try:
            yield part
        finally:
            part.close()


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the error of a file that cannot be written, with what to do about it."""
    full = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
    advice = (
        "make room, or set R2RT_HOME to a folder on another disk"
        if error.errno in full
        else "set R2RT_HOME to a folder that can be written"
    )
    return OutputError(f"{path}: cannot be written ({error.strerror}); {advice}")
