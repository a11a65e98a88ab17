"""`r2rt serve` as a process of its own, on a free port of this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.conftest import CHECKOUT

__all__ = ["LiveServer", "live_server"]

_STARTS_WITHIN_S = 90.0


@dataclass
class LiveServer:
    """A running service."""

    process: subprocess.Popen[str]
    client: httpx2.Client
    lines: list[str]


@contextmanager
def live_server(
    state: Path, *options: str, starts_within_s: float = _STARTS_WITHIN_S
) -> Iterator[LiveServer]:
    """Start a service over the demo's folder, and kill it in the end if it still runs."""
    command = [sys.executable, "-m", "r2rt", "serve", "--state", str(state), "--port", "0"]
    command += ["--model", "demo", "--device", "cpu", "--rate", "0"]
    command += ["--root", str(CHECKOUT / "demo"), *options]
    if "--ray" not in options:  # there Ray keeps the log
        command += ["--log-format", "json"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT, env=dict(os.environ)
    )
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "serving at" in line:
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert ready.wait(starts_within_s), lines
        found = re.search(r"http://\S+/", "".join(lines))
        assert found is not None, lines
        with httpx2.Client(base_url=found[0], timeout=60.0) as client:
            yield LiveServer(process, client, lines)
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()
