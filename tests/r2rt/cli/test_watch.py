"""`r2rt watch` as a user runs it: events, messages, the end, exit codes."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from r2rt.cli.main import run as run_here
from r2rt.cli.watch import watch as watch_command
from tests.r2rt.cli.test_ground import fails, run
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO
from tests.r2rt.live.conftest import transport_stream, video
from tests.r2rt.live.test_webhook import Hook, hook

__all__ = ["hook", "transport_stream", "video"]  # fixtures

QUERY = "a red ball rolls to the right"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "r2rt", "watch", *map(str, arguments), "-m", str(DEMO_BUNDLE)]


def watch(*arguments: object, stdin: Path | None = None) -> subprocess.CompletedProcess[str]:
    with Path("/dev/null" if stdin is None else stdin).open("rb") as source:
        return subprocess.run(
            command(*arguments), stdin=source, capture_output=True, text=True, check=False
        )


def test_lines_for_people_and_a_summary(transport_stream: Path) -> None:
    result = watch("-", QUERY, "--min-score", "0", stdin=transport_stream)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    pattern = r"\d\d:\d\d:\d\d  (opened|closed) +#\d+ +\d+:\d\d\.\d – \d+:\d\d\.\d +\d\.\d\d  "
    assert lines
    for line in lines:
        assert re.match(pattern, line), line
        assert QUERY in line
    assert "watching <stdin> for 1 query, the last 150 s" in result.stderr
    assert "0:12.0 watched: 144 frames, 6 clips" in result.stderr.replace("0:11.9", "0:12.0")
    assert "dropped: 0 clips, 0 frames, 0 answers" in result.stderr
    assert re.search(r"p50 \d+ ms, p95 \d+ ms \(a clip is 2 s\)", result.stderr)


def test_the_same_events_to_stdout_a_file_and_a_webhook(
    transport_stream: Path, tmp_path: Path, hook: Hook
) -> None:
    hook.statuses = [503]
    output = tmp_path / "events.jsonl"
    output.write_text('{"event": "of another day"}\n')
    result = watch(
        *("-", QUERY, "a dog", "--min-score", "0", "--format", "jsonl", "-o", output),
        *("--webhook", hook.url, "--webhook-header", "X-Key: k", "--changes"),
        stdin=transport_stream,
    )
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert {item["query"] for item in events} == {QUERY, "a dog"}
    assert {"opened", "closed"} <= {item["event"] for item in events}
    for item in events:
        assert 0 <= item["start_s"] < item["end_s"] <= 12.1
        assert item["source"] == "<stdin>"
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert written == [{"event": "of another day"}, *events]
    assert hook.taken == events
    assert set(hook.headers) == {"k"}
    assert f"webhook: {len(events)} events delivered, 0 dropped" in result.stderr


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_ctrl_c_ends_in_order(number: signal.Signals) -> None:
    with subprocess.Popen(
        command(DEMO_VIDEO, QUERY, "--realtime", "--min-score", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "watching" in line:
                break
        threading.Timer(1.5, process.send_signal, [number]).start()
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert "(stopped)" in stdout
    assert "watched:" in stderr
    assert "Traceback" not in stderr


def test_duration_ends_it_and_quiet_is_quiet() -> None:
    result = watch(DEMO_VIDEO, QUERY, "--realtime", "--duration", "1s", "--quiet", "--min-score", 0)
    assert result.returncode == 0, result.stderr
    assert "closed" in result.stdout
    assert "watched" not in result.stderr


def test_who_reads_may_have_had_enough(transport_stream: Path) -> None:
    with (
        transport_stream.open("rb") as stdin,
        subprocess.Popen(
            command("-", QUERY, "a dog", "--min-score", "0"),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        stderr = process.stderr.read()
    assert process.returncode == 0, stderr
    assert "error" not in stderr


def test_what_is_wrong_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "a.ts"
    text.write_text("no video\n" * 100_000)

    def refused(code: int, *arguments: object, word: str) -> None:
        capsys.readouterr()
        assert run_here(["watch", *map(str, arguments), "-m", str(DEMO_BUNDLE)]) == code
        stdout, stderr = capsys.readouterr()
        assert stdout == ""
        assert word in stderr.splitlines()[-1]

    refused(2, DEMO_VIDEO, QUERY, word="--realtime")
    refused(2, "-", word="no query")
    refused(2, "-", " ", word="empty")
    refused(2, "-", QUERY, "--webhook", "example.com", word="http")
    refused(2, "-", QUERY, "--until", "soon", word="18:30")
    refused(2, "-", QUERY, "--input-option", "x", word="NAME=VALUE")
    refused(10, tmp_path / "none.ts", QUERY, "--follow", word="none.ts")
    refused(40, "-", QUERY, "-o", tmp_path / "none" / "x.jsonl", word="x.jsonl")
    fails(watch("-", QUERY, stdin=text), 11, "<stdin>")


def test_a_source_that_is_lost_for_good_has_its_own_code() -> None:
    result = watch("rtsp://user:secret@127.0.0.1:9/x", QUERY, "--reconnect", "1")
    fails(result, 15, "rtsp://127.0.0.1:9/x", "lost for good", "Connection refused")
    assert "try 1 of 1 in" in result.stderr
    assert "secret" not in result.stderr


def test_the_help_names_every_kind_of_source() -> None:
    text = " ".join(run("watch", "--help").stdout.split())
    for word in ("rtsp://", "/dev/video0", "--follow", "--realtime", "--webhook", "exit code 0"):
        assert word in text


@pytest.mark.slow
def test_a_pipe_that_sends_nothing_ends_after_the_timeout() -> None:
    reader, writer = os.pipe()
    try:
        result = subprocess.run(
            command("-", QUERY, "--timeout", "1s"),
            stdin=reader,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(reader)
        os.close(writer)
    fails(result, 15, "<stdin>", "nothing to read within 1 s")


def test_no_function_has_dozens_of_parameters() -> None:
    assert watch_command.callback is not None
    assert len(inspect.signature(watch_command.callback).parameters) <= 12
    assert len(watch_command.params) > 25
