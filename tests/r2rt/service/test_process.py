"""The service as a process: killed, ended in order, refused."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from r2rt.cli.main import run
from r2rt.errors import ServiceStateError
from r2rt.service.app import create_app
from r2rt.service.server import run as serve
from r2rt.service.settings import Settings
from tests.conftest import CHECKOUT
from tests.r2rt.service.live_server import LiveServer, live_server

JOBS = 20


def add_video(server: LiveServer) -> str:
    path = str(CHECKOUT / "demo" / "shapes.mp4")
    response = server.client.post("/api/v1/videos", json={"path": path, "encode": False})
    assert response.status_code == 201, response.text
    id_: str = response.json()["id"]
    return id_


def submit(server: LiveServer, video: str, number: int) -> str:
    moment = {"query": f"shape {number}", "start_s": 0.5 * number, "end_s": 0.5 * number + 2}
    response = server.client.post(
        "/api/v1/jobs",
        json={"kind": "clips", "video": video, "moments": [moment]},
        headers={"Idempotency-Key": f"clip-{number}"},
    )
    assert response.status_code == 202, response.text
    id_: str = response.json()["id"]
    return id_


def jobs_of(server: LiveServer) -> dict[str, dict[str, Any]]:
    return {job["id"]: job for job in server.client.get("/api/v1/jobs").json()}


def wait_until(server: LiveServer, count: int, within_s: float = 120) -> dict[str, dict[str, Any]]:
    """Return the jobs once so many are done."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        jobs = jobs_of(server)
        if sum(job["state"] == "done" for job in jobs.values()) >= count:
            return jobs
        time.sleep(0.05)
    raise AssertionError([job["state"] for job in jobs_of(server).values()])


@pytest.mark.slow
def test_jobs_of_a_service_that_is_killed_all_finish_once(tmp_path: Path) -> None:
    state = tmp_path / "service"
    # More workers could finish all jobs before it is killed.
    with live_server(state, "--workers", "1") as server:
        video = add_video(server)
        ids = [submit(server, video, number) for number in range(JOBS)]
        before = wait_until(server, 4)
        server.process.kill()
        server.process.wait()
    assert any(job["state"] != "done" for job in before.values())
    with live_server(state) as server:
        assert [submit(server, video, number) for number in range(JOBS)] == ids  # asked again
        after = wait_until(server, JOBS)
        assert set(after) == set(ids)
        for id_, job in after.items():
            if before[id_]["state"] == "done":
                assert job == before[id_]
            result = server.client.get(f"/api/v1/jobs/{id_}").json()["result"]
            (file,) = result["files"]
            assert len(server.client.get(file["url"]).content) == file["bytes"]
    assert {path.name for path in (state / "results").iterdir()} == set(ids)


@pytest.mark.slow
def test_a_signal_ends_it_in_order_and_jobs_wait_for_the_next_one(tmp_path: Path) -> None:
    state = tmp_path / "service"
    with live_server(state) as server:
        video = add_video(server)
        ids = [submit(server, video, number) for number in range(6)]
        with server.client.stream("GET", f"/api/v1/jobs/{ids[-1]}/events") as events:
            lines = events.iter_lines()
            next(lines)
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert list(lines)  # a stream of events does not hold it up
            assert server.process.wait(60) == 0
            assert time.monotonic() - began < 30
    log = [line for line in server.lines if "serving at" not in line]
    assert any(json.loads(line)["request_id"] for line in log)
    second = subprocess.run(
        [sys.executable, "-c", _LEFT, str(state / "service.db")],
        capture_output=True,
        text=True,
        check=True,
    )
    states = json.loads(second.stdout)
    assert "running" not in states
    assert len(states) == 6


_LEFT = """
import json, sqlite3, sys
rows = sqlite3.connect(sys.argv[1]).execute("SELECT state FROM jobs").fetchall()
print(json.dumps([row[0] for row in rows]))
"""


def test_it_does_not_listen_to_others_without_a_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["--state", str(tmp_path / "service"), "--model", "demo"]
    assert run(["serve", *state, "--host", "0.0.0.0", "--port", "0"]) == 45
    assert "r2rt tokens add" in capsys.readouterr().err


def test_tokens_are_made_listed_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["--state", str(tmp_path / "service")]
    assert run(["tokens", "add", "page", "--scope", "read", *state]) == 0
    assert re.fullmatch(r"r2rt_[\w-]{43}\n", capsys.readouterr().out)
    assert run(["tokens", "list", *state]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"^page +read +\d{4}-\d\d-\d\d *$", listed, re.MULTILINE)
    assert run(["tokens", "add", "page", *state]) == 2
    assert run(["tokens", "remove", "page", *state]) == 0
    assert run(["tokens", "remove", "page", *state]) == 2


def test_two_services_do_not_share_a_folder(tmp_path: Path) -> None:
    from r2rt.errors import ServiceStateError
    from r2rt.service.app import create_app
    from r2rt.service.settings import Settings

    settings = Settings(folder=tmp_path, model="demo")
    app = create_app(settings)
    with pytest.raises(ServiceStateError, match="another r2rt serve uses it"):
        create_app(settings)
    app.state.service.release()


def test_a_port_that_is_in_use_is_one_line(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        app = create_app(dataclasses.replace(settings, port=port))
        with pytest.raises(ServiceStateError, match=rf"127\.0\.0\.1:{port}: .*--port"):
            serve(app, on_ready=pytest.fail)
