"""A typed client generated from the OpenAPI document speaks to a running service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from r2rt.service.app import create_app
from r2rt.service.settings import Settings
from tests.conftest import CHECKOUT
from tests.r2rt.service.live_server import live_server

# Types that the generator does not know, by ones that it treats alike.
CONFIG = """
post_hooks: []
content_type_overrides:
  application/problem+json: application/json
  application/jsonl: text/plain
  application/offset+octet-stream: application/octet-stream
  image/jpeg: application/octet-stream
  text/event-stream: text/plain
"""
PROGRAM = """
import sys
import time

from r2rt_client import Client
from r2rt_client.api.jobs import get_job
from r2rt_client.api.videos import add_video, get_video, ground_video
from r2rt_client.models import (
    AddVideo, AnswerBody, GroundBody, JobDocument, ProblemDocument, VideoDocument,
)
from r2rt_client.models.job_document_state import JobDocumentState

with Client(base_url=sys.argv[1]) as client:
    video = add_video.sync(client=client, body=AddVideo(path=sys.argv[2]))
    assert isinstance(video, VideoDocument), video
    while isinstance(video.job, str):
        job = get_job.sync(video.job, client=client)
        assert isinstance(job, JobDocument), job
        if job.state == JobDocumentState.DONE:
            break
        time.sleep(0.1)
    body = GroundBody(queries=["a panda"], top_k=1)
    answer = ground_video.sync(video.id, client=client, body=body)
    assert isinstance(answer, AnswerBody), answer
    moment = answer.predictions[0].moments[0]
    start_s: float = moment.start_s
    end_s: float = moment.end_s
    missing = get_video.sync("0" * 16, client=client)
    assert isinstance(missing, ProblemDocument), missing
    code: str = missing.code
    print(start_s, end_s, code)
"""


@pytest.mark.slow
def test_a_generated_client_is_typed_and_works(tmp_path: Path) -> None:
    app = create_app(Settings(folder=tmp_path / "made", model="demo"))
    app.state.service.release()
    (tmp_path / "openapi.json").write_text(json.dumps(app.openapi()))
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "program.py").write_text(PROGRAM)

    def python(*arguments: str) -> str:
        command = [sys.executable, "-m", *arguments]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    generate = ["openapi_python_client", "generate", "--path", "openapi.json", "--meta", "none"]
    made = python(*generate, "--config", "config.yaml", "--output-path", "r2rt_client")
    assert "WARNING" not in made
    python("mypy", "--strict", "--config-file=", "--follow-imports=silent", "program.py")
    with live_server(tmp_path / "state") as server:
        address = str(server.client.base_url).rstrip("/")
        printed = python("program", address, str(CHECKOUT / "demo" / "emoji.mp4"))
    start, end, code = printed.split()
    assert code == "no-such-video"
    assert abs(float(start) - 53.3) < 2 > abs(float(end) - 63.1)  # by demo/emoji.json
