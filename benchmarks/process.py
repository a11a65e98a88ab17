"""Processes of their own: run once and measured whole, or kept and asked again and again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["NOTHING_KEPT", "Child", "ChildError", "Worker", "python", "run_child", "serve"]

# Under this environment no encoded video is kept, so that every run does all the work.
NOTHING_KEPT = {"R2RT_CACHE_BYTES": "0"}

_LAUNCHER = Path(__file__).with_name("_launch.py")


class ChildError(RuntimeError):
    """A measured process failed; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Child:
    """What one process took from its start to its end.

    Attributes:
        wall_s: wall-clock seconds.
        cpu_s: processor seconds of all its threads.
        peak_rss_bytes: the most memory that it had resident.
        stdout: what it printed.
    """

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    stdout: str


def python(script: str, *arguments: str | Path) -> list[str]:
    """Return the command that runs a script of this folder."""
    return [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]


def run_child(
    command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, timeout_s: float = 3600
) -> Child:
    """Run a command to its end and measure it; its stderr passes through.

    Raises:
        ChildError: it ended with another code than 0.
    """
    arguments = [str(part) for part in command]
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as report:
        try:
            launcher = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(writing), *arguments],
                stdout=subprocess.PIPE,
                pass_fds=(writing,),
                env={**os.environ, **(env or {})},
                text=True,
            )
        finally:
            os.close(writing)
        stdout, _ = launcher.communicate(timeout=timeout_s)
        content = report.read()
    if launcher.returncode or not content:
        raise ChildError(f"could not start {' '.join(arguments)}")
    measured = json.loads(content)
    code = measured.pop("returncode")
    if code:
        raise ChildError(f"exit code {code} of {' '.join(arguments)}; its stderr is above")
    return Child(**measured, stdout=stdout)


class Worker:
    """A process that answers requests, one JSON object a line; see `serve`."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        self._command = " ".join(command)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            text=True,
        )
        try:
            self.hello = self._read()
        except BaseException:
            self.close()
            raise

    def ask(self, operation: str, **request: Any) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            ChildError: the process has ended; its stderr, which passes through, says why.
        """
        assert self._process.stdin is not None
        # A process that is gone has nothing to say, which the reading finds out.
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": operation, **request}), file=self._process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Worker:
        """Return the worker."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildError(f"exit code {self._process.wait()} of {self._command}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(
    hello: Mapping[str, Any], operations: Mapping[str, Callable[..., dict[str, Any]]]
) -> None:
    """Answer requests from stdin on stdout until stdin ends, after a first line of greeting.

    A request names the operation as `do`; its other members are the operation's arguments. Whatever
    libraries print meanwhile goes to stderr.
    """
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        print(json.dumps(hello), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            operation = operations[request.pop("do")]
            print(json.dumps(operation(**request)), file=answers, flush=True)
