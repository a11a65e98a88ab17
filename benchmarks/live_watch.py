"""`r2rt watch` as a process of its own, on a server that is killed and brought back meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.live_servers import LiveServer
from benchmarks.machine import CHECKOUT
from benchmarks.process import ChildError
from benchmarks.results import Value

__all__ = [
    "Part",
    "Summary",
    "Watch",
    "Watched",
    "count_unreported",
    "latencies_of",
    "read_summary",
    "watch_server",
]

_POLL_S = 0.1
_ENDS_WITHIN_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is watched, and what befalls it.

    Attributes:
        server: what plays the video.
        video: a file that lasts longer than all of this.
        bundle: the model.
        queries: standing queries.
        total_s: when watching ends.
        interruptions: how often the server dies, at even distances.
        away_s: how long it stays away.
        every_s: how often memory is read.
    """

    server: type[LiveServer]
    video: Path
    bundle: Path
    queries: Sequence[str]
    total_s: float
    interruptions: int
    away_s: float
    every_s: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The summary that `r2rt watch` ends with."""

    stream_s: float
    frames: int
    clips: int
    answers: int
    opened: int
    closed: int
    clips_dropped: int
    frames_dropped: int
    answers_dropped: int
    packets_lost: int
    reconnects: int
    missing_s: float
    p50_ms: float
    p95_ms: float
    clip_s: float

    def watched(self) -> dict[str, Value]:
        """Return what came, by the headings of a table."""
        return {
            "minutes": round(self.stream_s / 60, 2),
            "frames": self.frames,
            "clips": self.clips,
            "answers": self.answers,
            "opened": self.opened,
            "closed": self.closed,
            "p50 ms": self.p50_ms,
            "p95 ms": self.p95_ms,
        }

    def dropped(self) -> dict[str, Value]:
        """Return what did not come, by the headings of a table."""
        return {
            "clips": self.clips_dropped,
            "frames": self.frames_dropped,
            "answers": self.answers_dropped,
            "lost packets": self.packets_lost,
            "reconnects": self.reconnects,
            "missing s": self.missing_s,
        }


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of the time.

    Attributes:
        end_s: when it ended, from the beginning.
        resident_bytes: memory at that time.
        latencies_s: from a frame's arrival to the answer, of the answers that changed anything.
    """

    end_s: float
    resident_bytes: int
    latencies_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What came of it.

    Attributes:
        summary: the process's own summary.
        unreported: drops in the summary that no event reported while they happened.
        parts: memory and latencies over time.
    """

    summary: Summary
    unreported: int
    parts: tuple[Part, ...]


def watch_server(plan: Watch) -> Watched:
    """Watch for so long, then end the process as Ctrl-C does.

    Raises:
        ChildError: it ended before, or with an error.
    """
    with plan.server(plan.video) as server:
        return _watch(plan, server)


def latencies_of(events: Iterable[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return (wall-clock time, latency) of each answer that any of the events is of.

    What is answered and closed while the source is lost is about frames from long before.
    """
    found = {}
    lost = False
    for event in events:
        if event["event"] in ("retrying", "reconnected"):
            lost = event["event"] == "retrying"
        elif "latency_s" in event and not lost and event.get("reason") != "stopped":
            found[event["at"]] = event["latency_s"]
    return sorted(found.items())


def count_unreported(summary: Summary, events: Iterable[dict[str, Any]]) -> int:
    """Return how many drops of the summary are in no event."""
    last = {event["what"]: event["total"] for event in events if event["event"] == "dropped"}
    return sum(
        abs(count - last.get(what, 0))
        for what, count in (
            ("clips", summary.clips_dropped),
            ("frames", summary.frames_dropped),
            ("answers", summary.answers_dropped),
        )
    )


def _watch(plan: Watch, server: LiveServer) -> Watched:
    events: list[dict[str, Any]] = []
    said: list[str] = []
    process = subprocess.Popen(
        _command(plan, server.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    readers = [
        threading.Thread(target=_read_events, args=(process.stdout, events), daemon=True),
        threading.Thread(target=_read_lines, args=(process.stderr, said), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        began = time.time()
        memory = _stay(plan, server, process)
        process.send_signal(signal.SIGINT)
        process.wait(_ENDS_WITHIN_S)
    finally:
        process.kill()
        process.wait()
        for reader in readers:
            reader.join(_ENDS_WITHIN_S)
        process.stdout.close()
        process.stderr.close()
    if process.returncode:
        raise ChildError(f"`r2rt watch` ended with {process.returncode}: {' / '.join(said[-3:])}")
    summary = read_summary("\n".join(said))
    latencies = [(at - began, latency_s) for at, latency_s in latencies_of(events)]
    parts = []
    before_s = 0.0
    for end_s, resident in memory:
        inside = tuple(x for at_s, x in latencies if before_s < at_s <= end_s)
        parts.append(Part(end_s=end_s, resident_bytes=resident, latencies_s=inside))
        before_s = end_s
    return Watched(
        summary=summary, unreported=count_unreported(summary, events), parts=tuple(parts)
    )


def _command(plan: Watch, url: str) -> list[str]:
    return [
        *(sys.executable, "-m", "r2rt", "watch", url, *plan.queries),
        *("--model", str(plan.bundle.resolve()), "--format", "jsonl", "--reconnect-forever"),
        *("--device", "cpu"),
        # One moment a query is always open, so that every answer reports its latency.
        *("--changes", "--min-score", "0", "--top-k", "1"),
    ]


def _stay(
    plan: Watch, server: LiveServer, process: subprocess.Popen[str]
) -> list[tuple[float, int]]:
    """Kill the server and bring it back when it is time; return memory over time."""
    deaths = [plan.total_s * (n + 1) / (plan.interruptions + 1) for n in range(plan.interruptions)]
    back_s: float | None = None
    memory: list[tuple[float, int]] = []
    reads = round(plan.total_s / plan.every_s)
    began_s = time.monotonic()
    while len(memory) < reads:
        time.sleep(_POLL_S)
        if process.poll() is not None:
            break
        now_s = time.monotonic() - began_s
        if deaths and now_s >= deaths[0]:
            del deaths[0]
            server.kill()
            back_s = now_s + plan.away_s
        if back_s is not None and now_s >= back_s:
            server.start()
            back_s = None
        if now_s >= (len(memory) + 1) * plan.every_s:
            memory.append((now_s, _resident_bytes(process.pid)))
    return memory


def _read_events(stream: IO[str], events: list[dict[str, Any]]) -> None:
    events.extend(json.loads(line) for line in stream)


def _read_lines(stream: IO[str], lines: list[str]) -> None:
    for line in stream:
        lines.append(line.strip())
        print(f"  {line.strip()}", file=sys.stderr, flush=True)


def _resident_bytes(pid: int) -> int:
    output = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(pid)], check=True, capture_output=True, text=True
    ).stdout
    return 1024 * int(output)


_SUMMARY = re.compile(
    r"(?P<stream>[\d:.]+) watched: (?P<frames>\d+) frames, (?P<clips>\d+) clips, "
    r"(?P<answers>\d+) answers, (?P<opened>\d+) moments opened, (?P<closed>\d+) closed\n"
    r".*?dropped: (?P<clips_dropped>\d+) clips, (?P<frames_dropped>\d+) frames, "
    r"(?P<answers_dropped>\d+) answers; (?P<packets_lost>\d+) packets lost; "
    r"(?P<reconnects>\d+) reconnects, (?P<missing_s>[\d.]+) s missing\n"
    r".*?p50 (?P<p50_ms>[\d.]+) ms, p95 (?P<p95_ms>[\d.]+) ms \(a clip is (?P<clip_s>[\d.e-]+) s\)"
)


def read_summary(text: str) -> Summary:
    """Read the summary that `r2rt watch` ends with on stderr.

    Raises:
        ChildError: there is none, or none with latencies because nothing was answered.
    """
    found = _SUMMARY.search(text)
    if found is None:
        raise ChildError(f"no summary with latencies in what `r2rt watch` said: {text!r}")
    values: dict[str, Any] = found.groupdict()
    stream_s = 0.0
    for part in values.pop("stream").split(":"):
        stream_s = 60 * stream_s + float(part)
    for name, value in values.items():
        values[name] = float(value) if name.endswith(("_s", "_ms")) else int(value)
    return Summary(stream_s=stream_s, **values)
