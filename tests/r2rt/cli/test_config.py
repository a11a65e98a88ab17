"""Defaults for options from a TOML file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from r2rt.cache import cache_dir
from r2rt.cli.config import config_path, defaults_of, read_config
from r2rt.cli.main import run
from r2rt.cli.watch_options import EventOptions, event_options
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO

QUERY = "a red ball"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("R2RT_CONFIG", str(path))
    return path


def test_the_file_lies_in_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("R2RT_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_path() == tmp_path / "r2rt" / "config.toml"


def test_a_command_takes_its_defaults_and_the_command_line_goes_first(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(
        f"""
        [defaults]
        model = "{DEMO_BUNDLE}"
        false-alarm = 0.1  # an option of `models calibrate` alone
        [ground]
        top-k = 2
        format = ["json"]
        quiet = true
        end = "8s"
        [highlights]
        length = "4s"
        json = true
        """
    )
    assert run(["ground", str(DEMO_VIDEO), QUERY]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["duration_s"] == 8
    assert len(document["results"][0]["moments"]) == 2
    assert run(["ground", str(DEMO_VIDEO), QUERY, "--top-k", "1", "-f", "csv"]) == 0
    out, err = capsys.readouterr()
    assert out.count(QUERY) == 1
    assert "model" not in err
    assert run(["highlights", str(DEMO_VIDEO), QUERY, "--quiet"]) == 0
    moments = json.loads(capsys.readouterr().out)["results"][0]["moments"]
    assert {moment["end_s"] - moment["start_s"] for moment in moments} == {4}


def test_a_table_of_a_subcommand_leaves_it_what_holds_for_all(config: Path) -> None:
    config.write_text('[defaults]\nquiet = true\n[models.pull]\nprecision = "int8"\n')
    from r2rt.cli.models import models

    found = defaults_of(read_config(), "models", models, lambda: [models])
    assert found["pull"] == {"quiet": True, "precision": "int8"}
    assert found["quantize"] == {"quiet": True}


def test_the_suffix_of_the_output_goes_before_a_default_format(
    config: Path, tmp_path: Path
) -> None:
    config.write_text(
        f"""
        [defaults]
        model = "{DEMO_BUNDLE}"
        quiet = true
        format = "json"
        tolerance = 0.5
        """
    )
    output = tmp_path / "out.csv"
    assert run(["ground", str(DEMO_VIDEO), QUERY, "-o", str(output)]) == 0
    assert output.read_text().startswith("video,qid,query")


@pytest.mark.parametrize(
    ("options", "format_"),
    [([], "jsonl"), (["-f", "lines"], "lines"), (["-f", "jsonl", "--json"], "jsonl")],
)
def test_a_format_goes_before_a_default_of_json(options: list[str], format_: str) -> None:
    @click.command()
    @event_options
    def watch(events: EventOptions) -> None:
        click.echo(events.format_)

    result = CliRunner().invoke(watch, options, default_map={"json_": True})
    assert result.stdout == f"{format_}\n"


@pytest.mark.parametrize(
    "command", [["watch", "-", "a", "-f", "lines"], ["search", "none", "a", "-f", "jsonl"]]
)
def test_two_formats_are_not_one(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--json"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_a_default_for_encoding_is_not_refused_with_an_encoded_video(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(f'[defaults]\nmodel = "{DEMO_BUNDLE}"\nsampling = "nearest"\n')
    encoded = str(tmp_path / "shapes.r2rt")
    assert run(["encode", str(DEMO_VIDEO), encoded]) == 0
    assert run(["ground", encoded, QUERY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sampling"] == "nearest"
    assert run(["ground", encoded, QUERY, "--sampling", "exact"]) == 2
    assert "already encoded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 20),
        (["-o", "out.csv"], 20),
        (["-f", "csv"], 20),
        (["-f", "edl", "--output-dir", "out"], 20),
        (["--rank"], 20),
        (["--clips", "clips"], 20),
        (["--json", "-o", "film.mp4"], 2),
        (["--padding", "2s"], 2),
        (["--frame-rate", "25"], 2),
        (["--within", "5s"], 2),
        (["-o", "out.csv", "--output-dir", "out"], 2),
    ],
)
def test_defaults_that_have_no_use_in_a_command_do_not_end_it(
    config: Path, options: list[str], code: int
) -> None:
    """20 is the error of the model that is not there, which comes after all checks of options."""
    config.write_text(
        """
        [defaults]
        skip-existing = true
        padding = "2s"
        copy = true
        drop-frame = false
        frame-rate = 25
        rows = 30
        json = true
        output-dir = "folder"
        within = "10s"
        """
    )
    assert run(["ground", str(DEMO_VIDEO), QUERY, *options, "--model", "none"]) == code


@pytest.mark.parametrize(
    ("default", "options", "kind"),
    [
        ("rank = true", [], "ranking"),
        ("rank = true", ["-f", "csv"], "csv"),
        ("rank = true", ["--json"], "json"),
        ("rank = true", ["-o", "new.csv"], "csv"),
        ("rank = true", ["--output-dir", "new"], "table"),
        ('output = "old.json"', ["--output-dir", "new"], "table"),
        ('output = "old.json"', ["--rank"], "ranking"),
        ('output = "old.json"', ["-f", "csv"], "csv"),
        ('output = "old.csv"\nrank = true', ["--json"], "json"),
    ],
)
def test_where_and_how_the_command_line_says_to_write_goes_before_defaults(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    default: str,
    options: list[str],
    kind: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    config.write_text(f'[ground]\nmodel = "{DEMO_BUNDLE}"\nquiet = true\n{default}\n')
    assert run(["ground", str(DEMO_VIDEO), QUERY, *options]) == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != config]
    text = "".join(path.read_text() for path in written) or capsys.readouterr().out
    assert not list(tmp_path.glob("old.*"))
    begins = {"json": "{", "csv": "video,qid"}.get(kind, "")
    assert text.startswith(begins), text
    if not begins:
        assert ("end ┃ video" in text) == (kind == "ranking"), text


def test_defaults_that_a_source_or_window_has_no_use_for_do_not_end_a_command(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(
        f"""
        [defaults]
        model = "{DEMO_BUNDLE}"
        source-fps = 2
        video-track = 1
        overlap = "100"
        """
    )
    images = tmp_path / "images"
    images.mkdir()
    for number in range(8):
        Image.new("RGB", (64, 48)).save(images / f"{number}.png")
    assert run(["ground", str(DEMO_VIDEO), QUERY, "--window", "none"]) == 0
    assert run(["encode", str(DEMO_VIDEO), str(tmp_path / "x.r2rt")]) == 0
    capsys.readouterr()
    assert run(["ground", str(images), QUERY, "--window", "none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["duration_s"] == 4  # two images a second
    asked = ["ground", str(DEMO_VIDEO), QUERY, "--window", "none"]
    assert run([*asked, "--source-fps", "2"]) == 2
    assert run([*asked, "--overlap", "100"]) == 2
    assert run(["ground", str(images), QUERY, "--window", "none", "--video-track", "1"]) == 2


@pytest.mark.parametrize(
    ("default", "command", "code"),
    [
        ('format = "json"', ["watch", "none", "a"], 10),
        ('window = "none"', ["watch", "none", "a"], 10),
        ('length = "10%"', ["highlights", "{video}", "--model", "none"], 20),
        ('format = "csv"', ["models", "info", "none"], 20),
        ('precision = "auto"', ["models", "pull", "none"], 20),
        ('output-dir = "nowhere"', ["mcp", "--model", "none"], 20),
    ],
)
def test_a_default_that_only_other_commands_can_read_does_not_end_one(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    default: str,
    command: list[str],
    code: int,
) -> None:
    """Each goes on to look for a model or a source that is not there."""
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / "home"))
    config.write_text(f"[defaults]\n{default}\n")
    assert run([part.format(video=DEMO_VIDEO) for part in command]) == code
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[defaults]\nformat = "jsn"', "'jsn' is not one of"),
        ("[defaults]\nend = true", "'True' is no time"),
        ('[ground]\nformat = "lines"', "'lines' is not one of"),
        ("[ground]\ntopk = 3", "[ground] topk: there is no such option; did you mean top-k?"),
        ("[defaults]\nzzz = 3", "[defaults] zzz: there is no such option"),
        ("[models.verify]\nzzz = 3", "[models.verify] zzz: there is no such option"),
        ("[graund]\n", "[graund]: there is no such command"),
        ("ground = 3", "ground: expected a table"),
        ("[ground", "not TOML"),
        ("[ground]\ntop-k = 0", "--top-k"),
        ("\xff", "not TOML"),
    ],
)
def test_a_mistake_is_one_line(
    config: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_bytes(content.encode("latin-1"))
    command = ["models", "verify", "x"] if "models" in content else ["ground", "a.mp4", "a"]
    assert run(command) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_named_must_be_there(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["ground", "a.mp4", "a"]) == 2
    assert "R2RT_CONFIG" in capsys.readouterr().err
    assert run(["--help"]) == 0
    monkeypatch.delenv("R2RT_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")
    assert run(["ground", "/nowhere.mp4", "a", "-m", str(DEMO_BUNDLE)]) == 10


def test_the_environment_goes_before_the_file(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text('[defaults]\nmax-memory = "1k"\n[models.pull]\nclip = "/of/the/file"\n')
    monkeypatch.setenv("R2RT_MAX_MEMORY", "4G")
    assert run(["ground", "nowhere.mp4", "a", "--model", str(DEMO_BUNDLE)]) == 10
    assert os.environ["R2RT_MAX_MEMORY"] == "4G"
    assert run(["ground", "nowhere.mp4", "a", "--max-memory", "2G"]) == 10
    assert os.environ["R2RT_MAX_MEMORY"] == "2G"
    monkeypatch.delenv("R2RT_MAX_MEMORY")
    assert run(["ground", "nowhere.mp4", "a"]) == 10
    assert os.environ["R2RT_MAX_MEMORY"] == "1k"

    asked: list[str | None] = []

    def pull(_: str, *, clip: str | None, **__: object) -> Path:
        asked.append(clip)
        return config

    monkeypatch.setattr("r2rt.model.pull.pull", pull)
    monkeypatch.setenv("R2RT_CLIP", "/of/the/environment")
    assert run(["models", "pull", "mine"]) == 0
    assert run(["models", "pull", "mine", "--clip", "/of/the/line"]) == 0
    monkeypatch.delenv("R2RT_CLIP")
    assert run(["models", "pull", "mine"]) == 0
    assert asked == ["/of/the/environment", "/of/the/line", "/of/the/file"]


def test_folders_may_begin_with_the_users_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("R2RT_CONFIG", "~/r2rt.toml")
    monkeypatch.setenv("R2RT_CACHE", "~/cache")
    assert config_path() == tmp_path / "r2rt.toml"
    assert cache_dir() == tmp_path / "cache"
