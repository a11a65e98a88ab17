"""Rows of results: what a step found, one JSON object a line on the standard output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

__all__ = ["State", "attempt", "put"]

State = Literal["ok", "failed", "skipped"]


def put(name: str, state: State, **values: Any) -> None:
    """Print a row: its name, whether it holds, and figures or a reason."""
    print(json.dumps({"name": name, "state": state, **values}), flush=True)


def attempt(name: str, work: Callable[[], Mapping[str, Any] | None]) -> None:
    """Do a piece of work and print its row; whatever it raises is reported as failed.

    What does not fit into the GPU's memory is skipped.

    Args:
        name: of the row.
        work: returns figures for the row. An AssertionError's text is the reason alone.
    """
    began = time.perf_counter()
    try:
        values = work() or {}
    except Exception as error:  # compilers and drivers raise their own kinds
        line = next(iter(str(error).strip().splitlines()), "")
        reason = line if isinstance(error, AssertionError) else f"{type(error).__name__}: {line}"
        # PyTorch's: the references take more memory than smaller GPUs have.
        state: State = "skipped" if type(error).__name__ == "OutOfMemoryError" else "failed"
        put(name, state, seconds=round(time.perf_counter() - began, 2), reason=reason[:300])
        return
    put(name, "ok", seconds=round(time.perf_counter() - began, 2), **values)
