"""What was asked of each video in an output folder, so that `--skip-existing` can compare it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r2rt.errors import OutputError

__all__ = ["NAME", "AskedRecord"]

NAME = ".r2rt-asked.jsonl"


class AskedRecord:
    """One line for each video that was answered: its output's name, and a hash of what was asked.

    Args:
        folder: where outputs are written, and the record beside them.
        asked: everything that decides an answer: queries, model, options.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        self._path = folder / NAME
        text = json.dumps(asked, sort_keys=True, default=str)
        self._hash = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
        self._last = _read(self._path)

    def is_same(self, name: str) -> bool:
        """Return whether an output was last written for what is asked now."""
        return self._last.get(name) == self._hash

    def add(self, name: str) -> None:
        """Note that an output has been written.

        Raises:
            OutputError: the record cannot be written.
        """
        if self.is_same(name):
            return
        self._last[name] = self._hash
        line = json.dumps({"output": name, "asked": self._hash}) + "\n"
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
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
