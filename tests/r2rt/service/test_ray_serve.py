"""The service on Ray Serve: replicas that are killed lose no job and no answer."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from r2rt.cli.main import run
from r2rt.errors import ServiceStateError
from r2rt.service.settings import Settings
from tests.conftest import CHECKOUT
from tests.r2rt.service.live_server import LiveServer, live_server

pytest.importorskip("ray.serve", reason="Ray Serve is not installed; pip install 'r2rt[ray-serve]'")

JOBS = 8
PANDA = {"queries": ["a panda"], "saliency": False, "top_k": 1}


def test_a_fault_ends_the_job_that_waits_for_it() -> None:
    from r2rt.service.ray_serve import _reported

    def work(update: Callable[[int, int], None]) -> None:
        update(1, 2)
        raise KeyError("a fault")

    async def follow() -> None:
        assert [item async for item in _reported(work)] == []

    async def main() -> None:
        await asyncio.wait_for(follow(), 20)

    with pytest.raises(KeyError, match="a fault"):
        asyncio.run(main())


@pytest.mark.parametrize(("host", "port"), [("0.0.0.0", 8000), ("127.0.0.1", 8001), (None, 8000)])
def test_nothing_is_served_at_an_address_that_was_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str | None, port: int
) -> None:
    """Serve that runs already keeps its own, where strangers may need no token."""
    from r2rt.service import ray_serve

    started: list[dict[str, Any]] = []
    running = SimpleNamespace(http_config=SimpleNamespace(host=host, port=port))
    monkeypatch.setattr(ray_serve, "_get_global_client", lambda: running)
    monkeypatch.setattr("ray.serve.start", lambda **options: started.append(options))
    monkeypatch.setattr("ray.serve.run", lambda *_, **__: pytest.fail("it is served"))
    settings = Settings(folder=tmp_path, host="127.0.0.1", port=8000)
    with pytest.raises(ServiceStateError, match=f"--host {host} --port {port}"):
        ray_serve._serve(settings, threading.Event(), lambda _: None, alone=False)
    assert started[0]["http_options"] == {"host": "127.0.0.1", "port": 8000}


def replicas(kind: str) -> set[int]:
    """Return the ids of the processes of a deployment, which are named after it."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(f"ray::ServeReplica:r2rt:{kind}".encode()):
            found.add(int(folder.name))
    return found


def ask(server: LiveServer, method: str, path: str, **options: Any) -> httpx2.Response:
    """Send a request as a client does that tries again after errors of the server."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        response = server.client.request(method, f"/api/v1{path}", **options)
        if response.status_code < 500:
            return response
        time.sleep(0.2)
    raise AssertionError(response.text)


def wait(server: LiveServer, done: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """Return the jobs once they are as they should be."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        jobs: list[dict[str, Any]] = ask(server, "GET", "/jobs").json()
        if done(jobs):
            return jobs
        time.sleep(0.1)
    raise AssertionError(jobs)


@pytest.mark.slow
def test_replicas_that_are_killed_lose_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))
    for number in range(JOBS):
        shutil.copy(CHECKOUT / "demo" / "shapes.mp4", tmp_path / f"{number}.mp4")
    others = {kind: replicas(kind) for kind in ("Encoder", "Answerer", "Service")}

    def kill(kind: str) -> None:
        (process, *_) = replicas(kind) - others[kind]
        os.kill(process, signal.SIGKILL)

    options = ["--ray", "local", "--root", str(tmp_path)]
    with live_server(tmp_path / "state", *options, starts_within_s=300) as server:

        def add(path: Path) -> str:
            video: str = ask(server, "POST", "/videos", json={"path": str(path)}).json()["id"]
            return video

        def submit(number: int) -> str:
            body = {"kind": "ground", "videos": [videos[number]], "queries": ["a red circle"]}
            key = {"Idempotency-Key": f"job {number}"}
            job: str = ask(server, "POST", "/jobs", json=body, headers=key).json()["id"]
            return job

        emoji = add(CHECKOUT / "demo" / "emoji.mp4")
        wait(server, lambda jobs: jobs[0]["state"] == "done")
        first = ask(server, "POST", f"/videos/{emoji}/ground", json=PANDA).json()
        videos = [add(tmp_path / f"{number}.mp4") for number in range(JOBS)]
        submitted = [submit(number) for number in range(JOBS)]
        for kind in ("Encoder", "Answerer", "Service"):
            wait(server, lambda jobs: any(job["state"] in ("running", "done") for job in jobs))
            kill(kind)
            assert ask(server, "POST", f"/videos/{emoji}/ground", json=PANDA).json() == first
        jobs = wait(server, lambda jobs: all(job["state"] == "done" for job in jobs))
        assert len(jobs) == 1 + 2 * JOBS  # emoji's, and two a video
        assert [submit(number) for number in range(JOBS)] == submitted
        assert {job["id"] for job in jobs} == {
            job["id"] for job in ask(server, "GET", "/jobs").json()
        }
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(120) == 0


def test_the_documented_config_file_is_accepted() -> None:
    import yaml  # type: ignore[import-untyped]
    from ray.serve.schema import ServeDeploySchema

    from r2rt.service import ray_serve

    guide = (CHECKOUT / "docs" / "guides" / "service.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    (config,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
    assert config.import_path == "r2rt.service.ray_serve:application"
    assert ray_serve.application(config.args)
    deployments = {
        item.__name__ for item in (ray_serve.Service, ray_serve.Encoder, ray_serve.Answerer)
    }
    assert {deployment.name for deployment in config.deployments} <= deployments
    with pytest.raises(ValueError, match="rots: no such setting"):
        ray_serve.application(config.args | {"rots": []})


def test_a_log_that_ray_keeps_has_no_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without a token nothing would be served, either.
    state = ["--state", str(tmp_path / "service"), "--model", "demo", "--host", "0.0.0.0"]
    assert run(["serve", *state, "--ray", "local", "--log-format", "text"]) == 2
    assert "--log-format does nothing with --ray" in capsys.readouterr().err


def test_it_does_not_listen_to_others_without_a_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["--state", str(tmp_path / "service"), "--model", "demo"]
    assert run(["serve", *state, "--host", "0.0.0.0", "--ray", "local"]) == 45
    assert "r2rt tokens add" in capsys.readouterr().err
