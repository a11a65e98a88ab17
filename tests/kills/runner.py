"""Kills a command again and again, looks at what is there, and lets it finish."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import CHECKOUT
from tests.kills.jobs import JOBS, leftovers

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
    began = time.monotonic()
    _finish(name, folder, result)
    usual_s = time.monotonic() - began
    for number in range(kills):
        number_of_signal = rng.choice((signal.SIGKILL, signal.SIGTERM))
        with _start(name, folder, errors=subprocess.DEVNULL) as process:
            time.sleep(usual_s * rng.uniform(0.2, 1.05))
            before = set(leftovers(folder))
            if process.poll() is None:
                stopped_s = time.monotonic()
                process.send_signal(number_of_signal)
                process.wait(_LONGEST_S)
                result.kills[signal.Signals(number_of_signal).name] += 1
                if number_of_signal == signal.SIGTERM:
                    result.slowest_stop_s = max(result.slowest_stop_s, time.monotonic() - stopped_s)
            else:
                result.ended += 1
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


def _start(name: str, folder: Path, *, errors: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "R2RT_HOME": str(folder / "home"),
        "R2RT_CACHE": str(folder / "cache"),
    }
    return subprocess.Popen(
        JOBS[name].command(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env=environment,
        cwd=CHECKOUT,
    )


def _finish(name: str, folder: Path, result: Result) -> None:
    """Run the command to its end."""
    with _start(name, folder, errors=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=_LONGEST_S)
    if process.returncode:
        result.failed.append(f"exit code {process.returncode}: {said.decode()[-300:]}")
    try:
        JOBS[name].check(folder)
    except Exception as error:
        result.wrong.append(f"{type(error).__name__}: {error}")
