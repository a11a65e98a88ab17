"""Feeds inputs to a worker, and ends it where it hangs, takes too much memory, or dies."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.kinds import KINDS

__all__ = ["HANG_S", "MEMORY_BYTES", "Fuzzer", "table"]

HANG_S = 20.0
MEMORY_BYTES = 2 << 30
# A worker that has so much is ended before the machine suffers.
_FATAL_BYTES = 6 << 30
_START_S = 300.0
_POLL_S = 0.2
FAULTS = ("traceback", "crash", "hang", "memory", "silent loss")


@dataclass
class Fuzzer:
    """Tries inputs one after another and counts what became of them, by kind."""

    root: Path
    hang_s: float = HANG_S
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    _worker: subprocess.Popen[str] | None = None
    _answers: queue.Queue[str] = field(default_factory=queue.Queue)

    def try_input(self, kind: str, seed: int) -> str:
        """Have one input read and return its outcome."""
        outcome, detail = self._ask(kind, seed)
        counter = self.counts.setdefault(kind, Counter())
        counter["tried"] += 1
        counter[outcome] += 1
        if outcome in FAULTS:
            self.faults.append(f"{kind}, seed {seed}: {outcome} {detail}")
        return outcome

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
            for stream in (self._worker.stdin, self._worker.stdout):
                if stream is not None:
                    stream.close()
            self._worker = None

    def _ask(self, kind: str, seed: int) -> tuple[str, str]:
        worker = self._worker or self._start()
        assert worker.stdin is not None
        worker.stdin.write(f"{kind}\t{seed}\n")
        worker.stdin.flush()
        until_s = time.monotonic() + self.hang_s
        while time.monotonic() < until_s:
            try:
                line = self._answers.get(timeout=_POLL_S)
            except queue.Empty:
                if _resident_bytes(worker.pid) > _FATAL_BYTES:
                    self.close()
                    return "memory", f"over {_FATAL_BYTES >> 30} GiB"
                continue
            if not line:
                code = worker.wait()
                self.close()
                return "crash", f"exit code {code}"
            answer = json.loads(line)
            if answer["peak_bytes"] > MEMORY_BYTES:
                return "memory", f"{answer['peak_bytes'] >> 20} MiB"
            return answer["outcome"], answer.get("error", "")
        self.close()
        return "hang", f"over {self.hang_s:g} s"

    def _start(self) -> subprocess.Popen[str]:
        self._answers = queue.Queue()
        self._worker = worker = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", str(self.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "R2RT_CACHE": str(self.root / "cache"), "RUST_BACKTRACE": "0"},
        )
        threading.Thread(target=_pump, args=(worker, self._answers), daemon=True).start()
        if self._answers.get(timeout=_START_S) != "ready\n":
            raise RuntimeError("the worker does not start; run python -m tests.fuzz.worker FOLDER")
        return worker


def table(counts: dict[str, Counter[str]]) -> str:
    """Return the counts as a table of text, a row a kind."""
    columns = ("tried", "read", "refused", *FAULTS)
    width = max(map(len, [*KINDS, "all"]))
    total: Counter[str] = Counter()
    for counter in counts.values():
        total.update(counter)
    lines = ["kind".ljust(width) + "".join(column.rjust(13) for column in columns)]
    for name, counter in [*counts.items(), ("all", total)]:
        lines.append(name.ljust(width) + "".join(str(counter[c]).rjust(13) for c in columns))
    return "\n".join(lines)


def _pump(worker: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
    assert worker.stdout is not None
    for line in worker.stdout:
        answers.put(line)
    answers.put("")


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
