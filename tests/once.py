"""What is expensive to make is made once for all workers of a test run (pytest-xdist)."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

__all__ = ["made_once"]

_T = TypeVar("_T")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], _T]) -> _T:
    """Return `make(folder)`, which one worker calls and the others wait for.

    Args:
        factory: of temporary folders.
        name: the folder's name.
        make: fills the folder; its result is pickled for the other workers.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, result = shared / name, shared / f"{name}.pickle"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            folder.mkdir()
            result.write_bytes(pickle.dumps(make(folder)))
        made: _T = pickle.loads(result.read_bytes())
    return made
