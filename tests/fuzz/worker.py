"""The process that reads inputs: one line `KIND<TAB>SEED` in, one line of JSON out."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import sys
import time
import traceback
import warnings
from pathlib import Path

from r2rt.errors import R2rtError
from tests.fuzz.kinds import KINDS, prepared

__all__ = ["main"]


def main(root: Path) -> None:
    """Read inputs until standard input ends."""
    # What libraries print on standard output is not an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for name in KINDS:
        prepared(root, name)
    answers.write("ready\n")
    for line in sys.stdin:
        name, seed = line.rstrip("\n").split("\t")
        answers.write(json.dumps(read(root, name, int(seed))) + "\n")


def read(root: Path, name: str, seed: int) -> dict[str, object]:
    """Make an input, have it read, and return what became of it."""
    folder = root / f"input {os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(prepared(root, name), folder)
    KINDS[name].change(folder, random.Random(f"{name} {seed}"))
    _reset_peak()
    began = time.monotonic()
    answer: dict[str, object] = {"outcome": "read"}
    try:
        if KINDS[name].read(folder):
            answer["outcome"] = "silent loss"
    except R2rtError as error:
        lines = str(error).count("\n") + 1
        answer["outcome"] = "refused" if lines == 1 else "traceback"
        answer["error"] = f"{type(error).__name__}: {error}"[:300]
    except BaseException:
        answer["outcome"] = "traceback"
        answer["error"] = traceback.format_exc()[-1500:]
    answer["seconds"] = round(time.monotonic() - began, 2)
    answer["peak_bytes"] = _peak_bytes()
    return answer


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
