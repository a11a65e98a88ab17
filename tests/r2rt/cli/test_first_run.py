"""The first command, with the demo model alone: what is said, asked, remembered and fetched."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from r2rt import portable
from r2rt.cli import first_run
from r2rt.cli.main import run
from r2rt.model import pull
from r2rt.model.installed import models_dir
from tests.conftest import CHECKOUT
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO
from tests.r2rt.hub import Hub, running_hub
from tests.r2rt.terminals import read_to_the_end

CHECKPOINT = "yeliudev/R2-Tuning/resolve/main/checkpoints/r2_tuning_qvhighlights-ed516355.pth"
QUESTION = "Fetch it now?"
# The model is opened, and then the command fails with exit code 11: this is no video.
NOTHING = ("ground", str(CHECKOUT / "LICENSE"), "a dog")


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has no file."""
    for name in ("HTTP_PROXY", "ALL_PROXY", "HF_HUB_OFFLINE", "HF_TOKEN", "R2RT_MODEL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / "home"))
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def pulled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were asked for; each is installed with the weights of the tests."""
    names: list[str] = []

    def install(name: str, **_: object) -> Path:
        names.append(name)
        shutil.copytree(DEMO_BUNDLE, models_dir() / name)
        return models_dir() / name

    monkeypatch.setattr(pull, "pull", install)
    return names


def at_terminal(typed: str, *arguments: object, background: bool = False) -> tuple[int, str, str]:
    """Run a command whose stdin and stderr are a terminal; return exit code, stdout and stderr."""
    command = [sys.executable, "-m", "r2rt", *map(str, arguments)]
    main, side = pty.openpty()
    # A new session's first process that opens a terminal is controlled by it.
    start = 'set -m; "$@" & wait $!' if background else 'exec "$@"'
    os.write(main, typed.encode())
    process = subprocess.Popen(
        ["bash", "-c", f"exec <{os.ttyname(side)}; {start}", "bash", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=side,
        text=True,
        cwd=CHECKOUT,
        start_new_session=True,
    )
    os.close(side)
    shown = read_to_the_end(main)
    stdout, _ = process.communicate(timeout=60)
    return process.returncode, stdout, shown


class TestWithoutATerminal:
    def test_it_says_what_there_is_and_neither_waits_nor_fetches(self, hub: Hub) -> None:
        with subprocess.Popen(
            [sys.executable, "-m", "r2rt", *NOTHING],
            stdin=subprocess.PIPE,  # left open, with nothing to read
            stderr=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
        ) as process:
            assert process.wait(60) == 11
            assert process.stderr is not None
            first, second, *_ = process.stderr
        assert "demo model" in first
        assert "emoji alone" in first
        assert "r2rt models pull qvhighlights" in first
        for word in ("605 MB", hub.url, "BSD-3-Clause", "MIT", "model card advises against"):
            assert word in second
        assert not hub.requests

    def test_quiet_says_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run([*NOTHING, "--quiet"]) == 11
        assert capsys.readouterr().err.count("\n") == 1

    def test_offline_it_says_what_to_carry_over(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hub: Hub
    ) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert run(NOTHING) == 11
        carry = ("r2rt models export qvhighlights FILE", "r2rt models import FILE")
        _, second, *_ = capsys.readouterr().err.splitlines()
        assert all(word in second for word in ("HF_HUB_OFFLINE", *carry))
        assert run([*NOTHING, "--yes"]) == 24
        *_, error = capsys.readouterr().err.splitlines()
        assert all(word in error for word in ("HF_HUB_OFFLINE", *carry))
        monkeypatch.delenv("HF_HUB_OFFLINE")
        assert run([*NOTHING, "--yes"]) == 24
        *_, error = capsys.readouterr().err.splitlines()
        assert all(word in error for word in ("404", *carry))
        assert {request.path for request in hub.requests} == {CHECKPOINT}

    def test_yes_fetches_the_full_one_once(self, pulled: list[str]) -> None:
        for _ in range(2):
            assert run([*NOTHING, "--yes"]) == 11
        assert pulled == ["qvhighlights"]

    def test_yes_fetches_the_published_one_that_is_named(
        self, pulled: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert run([*NOTHING, "-m", "tacos"]) == 20
        assert run([*NOTHING, "-m", "mine", "--yes"]) == 20
        assert run([*NOTHING, "-m", str(DEMO_BUNDLE), "--yes"]) == 11
        assert pulled == []
        assert run([*NOTHING, "-m", "tacos", "--yes"]) == 11
        monkeypatch.setenv("R2RT_MODEL", "r2_tuning_charades")
        assert run([*NOTHING, "--yes"]) == 11
        assert pulled == ["tacos", "charades"]


class TestAtATerminal:
    def test_no_is_remembered(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, stdout, stderr = at_terminal("n\n", "ground", DEMO_VIDEO, "a panda", "--json")
        assert code in (0, 3)
        assert QUESTION in stderr
        assert json.loads(stdout)["model"] == "demo"
        monkeypatch.setattr(first_run, "_can_ask", lambda: True)
        assert run(NOTHING) == 11
        stderr = capsys.readouterr().err
        assert "demo model" in stderr
        assert QUESTION not in stderr
        assert not hub.requests

    def test_yes_fetches(self, hub: Hub) -> None:
        code, _, stderr = at_terminal("y\n", *NOTHING)
        assert code == 24
        assert "r2rt models import FILE" in stderr.replace("\r\n", "")
        assert {request.path for request in hub.requests} == {CHECKPOINT}

    def test_the_end_of_input_is_no_answer(self) -> None:
        code, _, stderr = at_terminal("\x04", *NOTHING)
        assert code == 11
        assert QUESTION in stderr
        assert not models_dir().exists()

    def test_a_background_job_is_not_asked(self) -> None:
        code, _, stderr = at_terminal("", *NOTHING, background=True)
        assert code == 11
        assert "605 MB" in stderr
        assert QUESTION not in stderr

    def test_a_terminal_at_which_nobody_sits(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        main, side = pty.openpty()
        monkeypatch.setattr(first_run, "_ANSWER_S", 0.01)
        monkeypatch.setattr(first_run, "_can_ask", lambda: True)
        with os.fdopen(side) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            assert run(NOTHING) == 11
            # It does not control the test's process; on Windows there is no such thing.
            assert not portable.may_read_terminal(stdin)
            monkeypatch.setattr(portable, "_is_windows", lambda: True)
            assert portable.may_read_terminal(stdin)
            assert portable.has_input(stdin, 60)
        os.close(main)
        assert "no answer" in capsys.readouterr().err
        assert not models_dir().exists()


class TestVariable:
    def test_it_names_the_model(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("R2RT_MODEL", str(DEMO_BUNDLE))
        assert run(NOTHING) == 11
        assert "random weights" in capsys.readouterr().err
        assert run([*NOTHING, "-m", "demo"]) == 11
        assert "model demo" in capsys.readouterr().err
        monkeypatch.setenv("R2RT_MODEL", "demo")
        assert run(NOTHING) == 11
        assert "605 MB" not in capsys.readouterr().err

    def test_it_goes_before_the_file_of_defaults(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "config.toml").write_text('[defaults]\nmodel = "nonesuch"\n')
        monkeypatch.setenv("R2RT_CONFIG", str(tmp_path / "config.toml"))
        assert run(NOTHING) == 20
        monkeypatch.setenv("R2RT_MODEL", "demo")
        assert run(NOTHING) == 11


@pytest.mark.parametrize("command", ["serve", "mcp"])
def test_a_missing_package_is_said_before_a_model_is_fetched(
    command: str,
    pulled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert run([command, "--yes"]) == 41
    assert "pip install 'r2rt[serve]'" in capsys.readouterr().err
    assert not pulled
