"""Kills a command again and again, looks at the files it left, and lets it finish.

The commands are forks of a server that has imported what they need: imports take most of a short
command's time and write nothing, so kills during them would find nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import runpy
import signal
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from r2rt.cli.main import run
from tests.kills.jobs import JOBS, PRELOADED, leftovers

__all__ = ["Result", "kill_job", "table"]

_LONGEST_S = 600.0


@dataclass
class Result:
    """What became of one command.

    Attributes:
        kills: how often it was killed, by signal.
        ended: how often it had ended before.
        wrong: outputs that were there and not whole, with the reason.
        left: what was still there after the next run that finished.
        left_by_kills: how much was there just after a kill, over all kills.
        failed: runs after kills that did not end well.
        slowest_stop_s: the longest time from SIGTERM to the end.
    """

    kills: dict[str, int] = field(default_factory=lambda: {"SIGKILL": 0, "SIGTERM": 0})
    ended: int = 0
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    left_by_kills: int = 0
    left_by_sigterm: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    slowest_stop_s: float = 0.0

    @property
    def faults(self) -> list[str]:
        """Everything that must not be."""
        return [*self.wrong, *self.left, *self.left_by_sigterm, *self.failed]


def kill_job(name: str, folder: Path, *, kills: int, seed: int, batch: int = 5) -> Result:
    """Kill one command `kills` times; after every `batch` of them let it finish.

    Args:
        name: one of `JOBS`.
        folder: an empty folder for its outputs, models and caches.
        kills: how often.
        seed: decides when, and by which signal.
        batch: kills between two runs that finish.
    """
    job, rng, result = JOBS[name], random.Random(f"{name} {seed}"), Result()
    job.prepare(folder)
    _finish(name, folder, result)  # starts the server
    began = time.monotonic()
    _finish(name, folder, result)
    usual_s = time.monotonic() - began
    for number in range(kills):
        number_of_signal = rng.choice((signal.SIGKILL, signal.SIGTERM))
        began = time.monotonic()
        process = _start(name, folder)
        process.join(usual_s * rng.uniform(0.02, 1.05))
        before = set(leftovers(folder))
        if process.is_alive():
            stopped_s = time.monotonic()
            assert process.pid is not None
            os.kill(process.pid, number_of_signal)
            process.join(_LONGEST_S)
            result.kills[signal.Signals(number_of_signal).name] += 1
            if number_of_signal == signal.SIGTERM:
                result.slowest_stop_s = max(result.slowest_stop_s, time.monotonic() - stopped_s)
        else:
            result.ended += 1
            usual_s = min(usual_s, time.monotonic() - began)  # the first may have had to wait
        process.close()
        left = set(leftovers(folder))
        result.left_by_kills += len(left)
        if number_of_signal == signal.SIGTERM:
            # Parts of downloads stay, to be resumed.
            new = {path for path in left - before if ".part" not in path}
            result.left_by_sigterm += [f"after SIGTERM: {path}" for path in sorted(new)]
        try:
            job.check(folder)
        except Exception as error:
            result.wrong.append(f"{type(error).__name__}: {error}")
        if (number + 1) % batch == 0 or number + 1 == kills:
            _finish(name, folder, result)
            result.left += leftovers(folder)
    return result


def table(results: dict[str, Result]) -> str:
    """Return the results as a table of text, a row a command."""
    head = ("command", "SIGKILL", "SIGTERM", "ended", "half-written", "left", "failed", "stop s")
    rows = [
        (
            name,
            *(str(result.kills[kind]) for kind in ("SIGKILL", "SIGTERM")),
            str(result.ended),
            str(len(result.wrong)),
            str(len(result.left) + len(result.left_by_sigterm)),
            str(len(result.failed)),
            f"{result.slowest_stop_s:.1f}",
        )
        for name, result in results.items()
    ]
    return "\n".join("".join(cell.ljust(14) for cell in row).rstrip() for row in (head, *rows))


_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(list(PRELOADED))


def _start(name: str, folder: Path) -> ForkServerProcess:
    environment = {"R2RT_HOME": str(folder / "home"), "R2RT_CACHE": str(folder / "cache")}
    process = _forks.Process(
        target=_run, args=(JOBS[name].command(folder), environment, folder / "errors.txt")
    )
    process.start()
    return process


def _run(command: list[str], environment: dict[str, str], errors: Path) -> None:
    """Be a command, in a process of its own."""
    os.environ.update(environment)
    output = os.open(os.devnull, os.O_RDWR)
    said = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, file in enumerate((output, output, said)):
        os.dup2(file, number)
    if command[0] == "r2rt":
        sys.exit(run(command[1:]))
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")


def _finish(name: str, folder: Path, result: Result) -> None:
    """Run the command to its end."""
    process = _start(name, folder)
    process.join(_LONGEST_S)
    if process.exitcode:
        said = (folder / "errors.txt").read_text(errors="replace")
        result.failed.append(f"exit code {process.exitcode}: {said[-300:]}")
    process.close()
    try:
        JOBS[name].check(folder)
    except Exception as error:
        result.wrong.append(f"{type(error).__name__}: {error}")
