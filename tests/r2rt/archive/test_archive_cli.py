"""`r2rt index`, `search` and `library` from end to end, with the demo model and the demo video."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from r2rt.cli.main import run
from tests.conftest import CHECKOUT

VIDEO = CHECKOUT / "demo" / "emoji.mp4"
SCHEMA = CHECKOUT / "r2rt" / "archive" / "search.schema.json"
MODEL = CHECKOUT / "r2rt" / "demo"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "videos").mkdir()
    shutil.copy(VIDEO, folder / "videos" / "emoji.mp4")
    shutil.copy(CHECKOUT / "demo" / "shapes.mp4", folder / "videos" / "shapes.mp4")
    arguments = ["index", str(folder / "library"), str(folder / "videos"), "-m", str(MODEL)]
    assert run([*arguments, "--quiet"]) == 0
    return folder / "library"


def test_a_sentence_finds_its_moment(library: Path, capfd: pytest.CaptureFixture[str]) -> None:
    truth = json.loads((CHECKOUT / "demo" / "emoji.json").read_text())["queries"][0]
    assert run(["search", str(library), truth["query"], "--json", "--quiet"]) == 0
    document = json.loads(capfd.readouterr().out)
    jsonschema.validate(document, json.loads(SCHEMA.read_text(encoding="utf-8")))
    best = document["hits"][0]
    assert Path(best["path"]).name == "emoji.mp4"
    assert any(
        min(best["end_s"], end_s) - max(best["start_s"], start_s)
        > 0.5 * (max(best["end_s"], end_s) - min(best["start_s"], start_s))
        for start_s, end_s in truth["true_s"]
    )


def test_info_and_check(library: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["library", "info", str(library), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["videos"], found["missing"], found["failed"]) == (2, 0, {})
    assert run(["library", "check", str(library)]) == 0
    assert "2 videos, 0 rows without a video" in capfd.readouterr().err


def test_a_folder_that_is_no_library(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["search", str(tmp_path), "a dog"]) == 16
    assert "not a library of videos; `r2rt index" in capfd.readouterr().err


def test_every_field_of_the_document_is_on_the_page() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    page = (CHECKOUT / "docs" / "guides" / "archive.md").read_text(encoding="utf-8")
    timings = schema["properties"]["timings"]["properties"]
    for name in (*schema["properties"], *schema["$defs"]["hit"]["properties"], *timings):
        assert f"`{name}`" in page, name
