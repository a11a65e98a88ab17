"""What each output answers that is written with a folder, so that `--skip-existing` can compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from r2rt.cli.session import source_state
from r2rt.errors import OutputError
from r2rt.video.remote import is_remote

__all__ = ["NAME", "AskedRecord"]

NAME = ".r2rt-asked.jsonl"
_UNKNOWN = ""


class AskedRecord:
    """One line for each output that was written: its name, and a hash of what it answers.

    Args:
        folder: where outputs are written, and the record beside them.
        asked: everything that decides an answer but the video: queries, model, options.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        self._path = folder / NAME
        self._asked = json.dumps(asked, sort_keys=True, default=str)
        self._last = _read(self._path)
        self._states: dict[str, tuple[int, ...] | None] = {}  # of videos at addresses

    def begin(self, video: str) -> None:
        """Note which file is at an address before it is read: it may be replaced meanwhile."""
        if is_remote(video) and video not in self._states:
            self._states[video] = source_state(video)

    def is_same(self, video: str, outputs: Iterable[str]) -> bool:
        """Return whether all these outputs were written last for this question about a video.

        Of a video at an address the file must be the same; one whose server does not say is not.
        """
        self.begin(video)
        asked = self._hash(video)
        return asked != _UNKNOWN and all(self._last.get(name) == asked for name in outputs)

    def forget(self, outputs: Iterable[str]) -> None:
        """Note that outputs are about to be replaced: until `add`, what they answer is unknown.

        Raises:
            OutputError: the record cannot be written.
        """
        self._note([name for name in outputs if self._last.get(name)], _UNKNOWN)

    def add(self, video: str, outputs: Iterable[str]) -> None:
        """Note that outputs have been written about a video; see `begin`.

        Raises:
            OutputError: the record cannot be written.
        """
        self._note(outputs, self._hash(video))

    def _hash(self, video: str) -> str:
        """Return what outputs about a video answer, or `_UNKNOWN`."""
        if is_remote(video):
            state = self._states.get(video)
            if state is None:
                return _UNKNOWN
            place = f"{video}\0{state}"
        else:  # videos of one name lie in several folders
            place = str(Path(video).resolve())
        text = f"{self._asked}\0{place}"
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()

    def _note(self, outputs: Iterable[str], asked: str) -> None:
        changed = [name for name in outputs if self._last.get(name) != asked]
        self._last |= dict.fromkeys(changed, asked)
        lines = [json.dumps({"output": name, "asked": asked}) + "\n" for name in changed]
        if not lines:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error


def _read(path: Path) -> dict[str, str]:
    """Return the last hash of each output; a line that is damaged counts as not there."""
    found: dict[str, str] = {}
    try:
        content = path.read_bytes()
    except OSError:
        return found
    for line in content.split(b"\n"):
        try:
            record = json.loads(line)
            found[str(record["output"])] = str(record["asked"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found
