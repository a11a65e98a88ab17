"""The service under load: requests a second, latencies, memory; against the command line a request.

    python -m benchmarks.service [--seconds 30] [--clients 64] [--only NAME ...]

Starts `r2rt serve` over the demo's videos and model, and lets clients ask one query after another:
`alone` without batching and `batched` with it about one encoded video, `library` a search over two.
`idle` is memory after the model was unloaded. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parents[1]
VIDEO = ROOT / "demo" / "emoji.mp4"
QUERIES = ("a panda", "a dog", "a red car", "a cat", "a tree", "a house", "a ball", "a fish")
_CLI_RUNS = 3


@dataclass
class Server:
    """A running service: its process, its address, and how long it took to start."""

    process: subprocess.Popen[str]
    address: str
    started_s: float

    @property
    def memory_mb(self) -> float:
        """Memory that the process takes, without pages of files."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = {name: int(value) for name, value in re.findall(r"(Rss\w+):\s+(\d+) kB", text)}
        return (found["RssAnon"] + found.get("RssShmem", 0)) / 1024

    @property
    def cpu_s(self) -> float:
        """Processor time that the process has taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_mb(self) -> float:
        """Memory that the process takes, with pages of libraries and of mapped files."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024


# Sends one query, and returns the response.
Ask = Callable[[httpx2.AsyncClient, str], Awaitable[httpx2.Response]]


@contextlib.contextmanager
def served(*options: str) -> Iterator[Server]:
    """Run the service in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "r2rt", "serve", "--state", folder, "--port", "0"]
        command += ["--model", "demo", "--device", "cpu", "--rate", "0", "--root", str(ROOT)]
        began = time.perf_counter()
        process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        said = []
        for text in process.stderr:
            said.append(text)
            if "serving at" in text:
                break
        took_s = time.perf_counter() - began
        found = re.search(r"serving at (http://\S+/)", "".join(said))
        if found is None:
            raise SystemExit(f"the service did not start:\n{''.join(said)}")
        # The log must be read, or the service waits for who reads it.
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        try:
            yield Server(process, found[1], took_s)
        finally:
            process.terminate()
            process.wait()
            drain.wait()
            process.stderr.close()


def prepare(server: Server) -> str:
    """Add the video, wait until it is encoded, and return its id."""
    with httpx2.Client(base_url=server.address, timeout=120) as client:
        video = client.post("/api/v1/videos", json={"path": str(VIDEO)}).json()
        if video["job"]:
            with client.stream("GET", f"/api/v1/jobs/{video['job']}/events") as events:
                for _ in events.iter_lines():
                    pass
        id_: str = video["id"]
        client.post(f"/api/v1/videos/{id_}/ground", json={"queries": ["a panda"]})
        return id_


def ground(video: str) -> Ask:
    """Return what asks about an encoded video."""

    def ask(client: httpx2.AsyncClient, query: str) -> Awaitable[httpx2.Response]:
        body = {"queries": [query], "top_k": 3, "saliency": False}
        return client.post(f"/api/v1/videos/{video}/ground", json=body)

    return ask


def search(client: httpx2.AsyncClient, query: str) -> Awaitable[httpx2.Response]:
    """Search the library."""
    return client.get("/api/v1/search", params={"q": query, "top": 3})


async def load(address: str, send: Ask, clients: int, seconds: float) -> list[float]:
    """Ask from many clients, and return the seconds of each request; none may fail."""
    took: list[float] = []
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx2.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        end = time.perf_counter() + seconds

        async def ask(number: int) -> None:
            while (began := time.perf_counter()) < end:
                query = f"{QUERIES[number % len(QUERIES)]} {len(took) % 50}"
                response = await send(client, query)
                assert response.status_code == 200, response.text
                took.append(time.perf_counter() - began)
                number += 1

        await asyncio.gather(*(ask(number) for number in range(clients)))
    return took


def command_line_s(*arguments: str) -> float:
    """Return the median seconds of a command of r2rt."""
    command = [sys.executable, "-m", "r2rt", *arguments, "--quiet", "--json", "--device", "cpu"]
    took = []
    for _ in range(_CLI_RUNS):
        began = time.perf_counter()
        done = subprocess.run(command, check=False, capture_output=True)
        took.append(time.perf_counter() - began)
        # 3: nothing was found, which takes as long.
        assert done.returncode in (0, 3), done.stderr.decode(errors="replace")
    return statistics.median(took)


def measured(clients: int, seconds: float, *options: str, send: Ask | None) -> dict[str, Any]:
    """Return the figures of one service under load.

    Without `send`, clients ask about the demo's video. `memory_mb` is memory at the start and after
    each quarter of the time.
    """
    with served(*options) as server:
        idle_mb = server.resident_mb
        send = send or ground(prepare(server))
        asyncio.run(load(server.address, send, clients, min(3.0, seconds)))
        memory_mb, before_s = [server.memory_mb], server.cpu_s
        took: list[float] = []
        passed_s = 0.0  # each quarter lasts until its last request is answered
        for _ in range(4):
            began = time.perf_counter()
            took += asyncio.run(load(server.address, send, clients, seconds / 4))
            passed_s += time.perf_counter() - began
            memory_mb.append(server.memory_mb)
        took.sort()
        return {
            "start_s": round(server.started_s, 2),
            "fresh_resident_mb": round(idle_mb, 1),
            "requests": len(took),
            "requests_per_s": round(len(took) / passed_s, 1),
            "cpu_ms": round(1000 * (server.cpu_s - before_s) / len(took), 2),
            "p50_ms": round(1000 * statistics.median(took), 1),
            "p95_ms": round(1000 * took[int(0.95 * len(took))], 1),
            "memory_mb": [round(value) for value in memory_mb],
        }


def searched(clients: int, seconds: float) -> dict[str, Any]:
    """Return the figures of a service of a library of the demo's videos."""
    with tempfile.TemporaryDirectory() as folder:
        library = str(Path(folder) / "library")
        command = [sys.executable, "-m", "r2rt", "index", library, str(VIDEO.parent)]
        subprocess.run([*command, "--model", "demo", "--device", "cpu", "--quiet"], check=True)
        figures = measured(clients, seconds, library, send=search)
        cli_s = command_line_s("search", library, "a panda")
        return figures | {"command_line_s": round(cli_s, 3)}


def idle_mb(unload_s: float = 1.0) -> tuple[float, float]:
    """Return memory with a model that was used, and after it was unloaded."""
    with served("--unload-after", str(unload_s)) as server:
        prepare(server)
        loaded = server.resident_mb
        time.sleep(25)  # the service looks every ten seconds
        return round(loaded, 1), round(server.resident_mb, 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=64)
    names = ("alone", "batched", "library", "idle")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    results: dict[str, object] = {"load": os.getloadavg()[0]}
    for name in arguments.only:
        if name == "idle":
            results["loaded_mb"], results["unloaded_mb"] = idle_mb()
        elif name == "library":
            results[name] = searched(arguments.clients, arguments.seconds)
        else:
            most = "1" if name == "alone" else "64"
            figures = measured(arguments.clients, arguments.seconds, "--batch", most, send=None)
            cli_s = command_line_s("ground", str(VIDEO), "a panda", "--model", "demo")
            results[name] = figures | {"command_line_s": round(cli_s, 3)}
        print(name, results.get(name), flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
