"""`r2rt models` as a user runs it: output, messages, exit codes."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from r2rt.cli.main import run as run_here
from r2rt.model.bundle import Bundle
from r2rt.model.pull import manifest_sha256
from r2rt.model.registry import PUBLISHED
from tests.conftest import CHECKOUT
from tests.r2rt.bundles import DIMS, write_bundle
from tests.r2rt.conftest import DEMO_BUNDLE
from tests.r2rt.hub import Hub, Step, running_hub
from tests.r2rt.terminals import read_to_the_end


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / "home"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home" / "models"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def run(*arguments: object, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "r2rt", "models", *map(str, arguments)]
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT, check=False
    )


def fails(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    assert not result.stdout
    assert "Traceback" not in result.stderr
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("r2rt: error: "))
    for word in words:
        assert word in line


class TestList:
    def test_plain_where_it_is_no_terminal(self, home: Path) -> None:
        write_bundle(home / "mine")
        result = run("list")
        assert result.returncode == 0
        assert result.stderr == ""
        lines = result.stdout.splitlines()
        assert lines[0].split() == ["name", "state", "size", "what", "it", "finds"]
        assert lines[1].split()[:3] == ["mine", "installed,", "fp32"]
        assert {line.split()[0] for line in lines[2:-1]} == set(PUBLISHED)
        assert lines[-1].split()[:5] == ["demo", "in", "the", "package,", "int8"]
        assert "\x1b" not in result.stdout

    def test_json(self, home: Path) -> None:
        write_bundle(home / "mine")
        document = json.loads(run("list", "--format", "json").stdout)
        assert document["folder"] == str(home)
        (mine,) = document["installed"]
        assert mine["name"] == "mine"
        assert mine["problem"] is None
        assert document["demo"]["name"] == "demo"
        assert set(document["demo"]) == set(mine)
        assert [model["name"] for model in document["published"]] == list(PUBLISHED)

    def test_a_demo_of_ones_own_is_listed_once(self, home: Path) -> None:
        write_bundle(home / "demo")
        names = [line.split()[0] for line in run("list").stdout.splitlines()]
        assert names.count("demo") == 1

    def test_a_damaged_model_is_reported_on_stderr(self, home: Path) -> None:
        write_bundle(home / "mine")
        (home / "mine" / "bundle.json").write_bytes(b"{")
        result = run("list")
        assert result.returncode == 0
        assert "damaged" in result.stdout
        assert "mine: " in result.stderr

    def test_a_terminal_gets_no_one_elses_escapes(self, home: Path) -> None:
        write_bundle(home / "mine", clip="\x1b[2Jevil")  # a free text of the manifest
        main, side = pty.openpty()
        command = [sys.executable, "-m", "r2rt", "models", "info", "mine"]
        process = subprocess.Popen(command, stdout=side, stderr=side, cwd=CHECKOUT)
        os.close(side)
        # Read while it runs: some systems drop what nobody read when the far side is closed.
        shown = read_to_the_end(main)
        assert process.wait(60) == 0, shown
        assert "evil" in shown
        assert "\x1b[2J" not in shown

    def test_a_full_disk_is_one_line(self, home: Path) -> None:
        with Path("/dev/full").open("wb") as full:
            result = run("list", stdout=full.fileno())
        fails(result, 40, "standard output", "No space left")
        assert len(result.stderr.splitlines()) == 1

    def test_a_reader_that_has_gone_is_no_fault(self, home: Path) -> None:
        read, write = os.pipe()
        os.close(read)
        result = run("list", stdout=write)
        os.close(write)
        assert result.returncode == 0
        assert result.stderr == ""


class TestInfo:
    def test_of_a_name_and_of_a_folder(self, home: Path, tmp_path: Path) -> None:
        write_bundle(home / "mine")
        write_bundle(tmp_path / "other")
        for model in ("mine", tmp_path / "other"):
            result = run("info", model)
            assert result.returncode == 0, result.stderr
            for word in ("moments and saliency", "1/2 a second", "width 8", "fake.pth", "passed"):
                assert word in result.stdout
            assert manifest_sha256(tmp_path / "other") in result.stdout

    def test_the_layers_of_clip_that_are_read(
        self, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_bundle(home / "mine")
        assert run_here(["models", "info", "mine"]) == 0
        assert ", last 2 layers" in capsys.readouterr().out
        write_bundle(home / "mine", dims=dataclasses.replace(DIMS, read_layers=(-7, -1)))
        assert run_here(["models", "info", "mine"]) == 0
        assert ", layers -7, -1\n" in capsys.readouterr().out

    def test_json_holds_the_manifest(self, home: Path) -> None:
        write_bundle(home / "mine")
        document = json.loads(run("info", "mine", "--format", "json").stdout)
        bundle = Bundle.open(home / "mine")
        assert document["fingerprint"] == bundle.fingerprint
        assert document["manifest_sha256"] == manifest_sha256(bundle.path)
        assert document["manifest"]["dims"]["strides"] == [1, 2, 4, 8]

    @pytest.mark.slow
    def test_errors(self, home: Path, tmp_path: Path) -> None:
        fails(run("info", "nonesuch"), 20, "nonesuch", "r2rt models list")
        fails(run("info", tmp_path), 20, "bundle.json")
        write_bundle(home / "mine")
        (home / "mine" / "grounder.onnx").unlink()
        fails(run("info", "mine"), 21, "grounder.onnx")
        (home / "mine" / "bundle.json").write_text('{"schema": 9}')
        fails(run("info", "mine"), 22, "schema 9")


class TestPull:
    def test_from_a_mirror(self, home: Path, hub: Hub, tmp_path: Path) -> None:
        write_bundle(tmp_path / "source")
        for path in (tmp_path / "source").iterdir():
            hub.add(f"mine/{path.name}", path.read_bytes())
        result = run("pull", "mine", "--from", hub.url)
        assert result.returncode == 0, result.stderr
        assert result.stdout == ""
        assert result.stderr.strip() == f"r2rt: mine is installed in {home / 'mine'}"
        Bundle.open(home / "mine")
        again = run("pull", "mine", "--from", hub.url, "--quiet")
        assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
        hub.always["mine/grounder.onnx"] = Step(corrupt=True)
        fails(run("pull", "mine", "--from", hub.url, "--force"), 23, "grounder.onnx", "sha256")
        Bundle.open(home / "mine")

    @pytest.mark.slow
    def test_a_pin_printed_by_info_can_be_pulled(self, home: Path, tmp_path: Path) -> None:
        write_bundle(tmp_path / "mine")
        document = json.loads(run("info", tmp_path / "mine", "--format", "json").stdout)
        pinned = f"mine@{document['manifest_sha256']}"
        assert run("pull", pinned, "--from", tmp_path).returncode == 0
        fails(run("pull", f"mine@{'0' * 64}", "--from", tmp_path), 23, "--force")

    def test_errors(self, home: Path, hub: Hub, tmp_path: Path) -> None:
        fails(run("pull", "mine", "--from", hub.url), 24, "404")
        fails(run("pull", "mine", "--from", tmp_path), 24, "no such file")
        fails(run("pull", "nonesuch"), 20, "--from")
        fails(run("pull", "../x", "--from", tmp_path), 2, "name")
        (tmp_path / "home").mkdir(exist_ok=True)
        shutil.rmtree(tmp_path / "home")
        (tmp_path / "home").write_bytes(b"")
        fails(run("pull", "mine", "--from", tmp_path), 40, "R2RT_HOME")

    @pytest.mark.slow
    def test_a_terminal_sees_a_bar(self, home: Path, hub: Hub, tmp_path: Path) -> None:
        write_bundle(tmp_path / "source")
        for path in (tmp_path / "source").iterdir():
            hub.add(f"mine/{path.name}", path.read_bytes())
        hub.always["mine/grounder.onnx"] = Step(pause_s=0.3)
        main, side = pty.openpty()
        command = [sys.executable, "-m", "r2rt", "models", "pull", "mine", "--from", hub.url]
        process = subprocess.Popen(command, stdout=side, stderr=side, cwd=CHECKOUT)
        os.close(side)
        shown = read_to_the_end(main)
        assert process.wait(60) == 0
        assert "pulling mine" in shown
        assert "kB" in shown


class TestVerify:
    @pytest.mark.slow
    def test_real_graphs_are_good(self, home: Path) -> None:
        shutil.copytree(DEMO_BUNDLE, home / "tiny")
        for model in ("tiny", DEMO_BUNDLE):
            result = run("verify", model)
            assert result.returncode == 0, result.stderr
            assert "4 graphs are good" in result.stdout

    def test_a_changed_bit_is_found(self, home: Path) -> None:
        shutil.copytree(DEMO_BUNDLE, home / "tiny")
        path = home / "tiny" / "grounder.onnx"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
        fails(run("verify", "tiny"), 23, "grounder.onnx")

    def test_graphs_that_no_runtime_opens(self, home: Path) -> None:
        write_bundle(home / "mine")
        fails(run("verify", "mine"), 21, ".onnx")

    def test_a_graph_in_the_place_of_another(self, home: Path) -> None:
        demo = Bundle.open(DEMO_BUNDLE).manifest
        contents = {name: (DEMO_BUNDLE / name).read_bytes() for name in demo.files}
        contents["text_encoder.onnx"] = contents["grounder.onnx"]
        write_bundle(home / "mine", contents, dims=demo.dims)
        fails(run("verify", "mine"), 21, "text_encoder.onnx", "token_ids")


class TestRemove:
    def test_it_is_gone(self, home: Path) -> None:
        write_bundle(home / "mine")
        result = run("remove", "mine")
        assert result.returncode == 0
        assert "mine is removed" in result.stderr
        assert not (home / "mine").exists()
        fails(run("remove", "mine"), 20, "mine")

    def test_a_path_is_no_name(self, home: Path, tmp_path: Path) -> None:
        write_bundle(tmp_path / "precious")
        fails(run("remove", tmp_path / "precious"), 2, "no name")
        assert (tmp_path / "precious").is_dir()


def test_json_of_a_folder_whose_name_is_not_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    monkeypatch.setenv("R2RT_HOME", str(folder))
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))
    write_bundle(folder / "models" / "mine")
    write_bundle(folder / "models" / "bad")
    (folder / "models" / "bad" / "bundle.json").write_bytes(b"{")
    assert run_here(["models", "list", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["folder"] == str(tmp_path / "caf\ufffd" / "models")
    bad, mine = document["installed"]
    assert mine["path"] == str(tmp_path / "caf\ufffd" / "models" / "mine")
    assert "caf\ufffd" in bad["problem"]
    assert run_here(["models", "info", "mine", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == mine["path"]
