"""Check and time everything that runs on a GPU, for someone who has one.

    python benchmarks/gpu_selfcheck.py [--limit 300] [--out FOLDER] [STEP ...]

Every Triton kernel, forward and backward, against fp64; compiled kernels by r2rt's own launcher;
compute-sanitizer where it is installed; every graph on every device against ONNX Runtime on the
CPU; then times beside eager PyTorch and `torch.compile`. Each step is a process of its own
with a limit of time, so whatever fails or hangs, the table is printed within `--limit` seconds.
Kernels need torch, triton and this checkout alone; launches need cuda-bindings and msgspec besides.

The rows are in FOLDER/gpu_selfcheck.jsonl, one a line. The exit code is 1 if anything failed.
Without a GPU the kernels are checked in Triton's interpreter on small shapes, and every other step
is listed as skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.gpu_checks.__main__ import ON_CPU

__all__ = ["Step", "main", "run_step", "summary"]

_CHECKOUT = Path(__file__).resolve().parents[1]
# A query on a short clip, on the longest window, and beyond what any cache holds.
_TIMED_CLIPS = ("75", "1000", "10000")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process.

    Attributes:
        arguments: of `python -m benchmarks.gpu_checks`.
        limit_s: how long it may take.
        alone: whether it is timed, so that nothing else may run beside it.
        before: a program that runs it, such as compute-sanitizer.
    """

    arguments: tuple[str, ...]
    limit_s: float
    alone: bool = False
    before: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """What its rows are listed under."""
        tool = f" under {Path(self.before[0]).name}" if self.before else ""
        return " ".join(x for x in self.arguments if "/" not in x) + tool


def _steps(media: Path) -> Iterator[Step]:
    """Yield every step: first those that may run side by side, then the timed ones."""
    yield Step(arguments=("environment",), limit_s=60, alone=True)
    yield Step(arguments=("launches",), limit_s=120)
    for kind in ("fp16", "bf16"):
        for step in ("block", "pool", "small"):
            yield Step(arguments=(step, kind), limit_s=170)
    yield Step(arguments=("pool", "fp32"), limit_s=170)
    yield Step(arguments=("small", "fp32"), limit_s=100)
    for clips in _TIMED_CLIPS:
        yield Step(arguments=("compile", "fp16", clips), limit_s=170)
    sanitizer = _sanitizer()
    if sanitizer:
        for tool in ("memcheck", "racecheck"):
            before = (sanitizer, "--tool", tool, "--error-exitcode", "9")
            yield Step(arguments=("sanitized",), limit_s=150, before=before)
        before = (sanitizer, "--tool", "memcheck", "--error-exitcode", "9")
        yield Step(arguments=("sanitized-pool",), limit_s=170, before=before)
    yield Step(arguments=("bundle", str(media)), limit_s=170)
    for clips in _TIMED_CLIPS:
        yield Step(arguments=("times", "fp16", clips), limit_s=60, alone=True)
    yield Step(arguments=("training", "bf16"), limit_s=60, alone=True)
    yield Step(arguments=("encoder",), limit_s=60, alone=True)
    yield Step(arguments=("graphs", str(media)), limit_s=90, alone=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the steps and print the table; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help="only these, such as `pool fp16`")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for all of it")
    parser.add_argument("--out", type=Path, default=_CHECKOUT / "benchmarks" / "results")
    parser.add_argument(
        "--media", type=Path, default=Path(tempfile.gettempdir()) / "r2rt-benchmarks",
        help="folder that keeps the random model",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    for folder in (given.out, given.media):
        folder.mkdir(parents=True, exist_ok=True)
    chosen = [
        step
        for step in _steps(given.media)
        if not given.steps or any(step.name.startswith(name) for name in given.steps)
    ]
    rows = _run(chosen, deadline=time.monotonic() + given.limit)
    path = given.out / "gpu_selfcheck.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(summary(rows))
    print(f"rows: {path}")
    return int(any(row["state"] == "failed" for row in rows))


def _run(steps: list[Step], *, deadline: float) -> list[Row]:
    """Run steps that are not timed side by side, then the timed ones one by one."""
    first = [step for step in steps if step.arguments == ("environment",)]
    others = [step for step in steps if step not in first]
    lock, rows = threading.Lock(), list[Row]()

    def run(step: Step) -> None:
        found = run_step(step, deadline=deadline)
        with lock:
            rows.extend(found)
            bad = sum(row["state"] == "failed" for row in found)
            print(f"{step.name}: {len(found)} rows, {bad} failed", file=sys.stderr, flush=True)

    for step in first:
        run(step)
    if any(row["name"] == "GPU" and row["state"] == "skipped" for row in rows):
        rows += [_skipped(x, "no GPU") for x in others if x.arguments[0] not in ON_CPU]
        others = [step for step in others if step.arguments[0] in ON_CPU]
    # Compilers take a processor each.
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2)) as pool:
        list(pool.map(run, [step for step in others if not step.alone]))
    for step in others:
        if step.alone:
            run(step)
    return rows


def run_step(step: Step, *, deadline: float) -> list[Row]:
    """Run a step to its end or its limit and return its rows; its own end is a row if it is bad."""
    left_s = deadline - time.monotonic()
    limit_s = min(step.limit_s, left_s)
    if limit_s <= 0:
        return [_skipped(step, "no time was left")]
    command = [*step.before, sys.executable, "-m", "benchmarks.gpu_checks", *step.arguments]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=_CHECKOUT, stdout=out, stderr=errors, start_new_session=True
        )
        reason, out_of_time = "", False
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its compilers as well
            process.wait()
            code, out_of_time = 0, left_s < step.limit_s
            reason = f"ended after {limit_s:.0f} s, " + (
                "no time was left" if out_of_time else "its limit"
            )
        out.seek(0)
        errors.seek(0)
        rows = list(_rows(step, out))
        lines = errors.read().strip().splitlines()
    if code:
        reason = f"exit code {code}: {lines[-1][:300] if lines else 'no message'}"
    if out_of_time:
        rows.append(_skipped(step, reason))
    elif reason:
        rows.append({"step": step.name, "name": "its process", "state": "failed", "reason": reason})
    return rows


def _skipped(step: Step, reason: str) -> Row:
    return {"step": step.name, "name": "all of it", "state": "skipped", "reason": reason}


def _rows(step: Step, lines: Iterable[str]) -> Iterator[Row]:
    """Yield the rows among a step's lines; libraries print lines of their own."""
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "state" in row:
            yield {"step": step.name, **row}


def summary(rows: list[Row]) -> str:
    """Return the table: figures, then each step's count, then all that failed or was skipped."""
    lines = []
    for row in rows:
        figures = {
            key: value
            for key, value in row.items()
            if key not in {"step", "name", "state", "seconds", "error", "reason"}
        }
        if row["state"] == "ok" and figures:
            text = ", ".join(f"{key} {_short(value)}" for key, value in figures.items())
            lines.append(f"{row['name']}: {text}")
    lines.append("")
    for step in dict.fromkeys(row["step"] for row in rows):
        own = [row for row in rows if row["step"] == step]
        held = sum(row["state"] == "ok" for row in own)
        worst = max((row.get("error", 0.0) for row in own), default=0.0)
        error = f", greatest relative error {worst:.1e}" if worst else ""
        lines.append(f"{step}: {held} of {len(own)} hold{error}")
    for state in ("skipped", "failed"):
        lines += [
            f"{state.upper()} {row['step']}, {row['name']}: {row['reason']}"
            for row in rows
            if row["state"] == state
        ]
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _sanitizer() -> str | None:
    """Return the path of compute-sanitizer, which is not on PATH everywhere."""
    usual = sorted(Path("/usr/local").glob("cuda*/bin/compute-sanitizer"))
    return shutil.which("compute-sanitizer") or (str(usual[-1]) if usual else None)


if __name__ == "__main__":
    sys.exit(main())
