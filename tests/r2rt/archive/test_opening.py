"""Libraries at an address: each table is a request or more, so it is opened once."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lance
import pytest

from r2rt.archive.library import Archive
from r2rt.archive.tables import NAMES
from r2rt.archive.writer import IndexReport
from r2rt.cli.main import run
from r2rt.errors import LibraryError
from r2rt.service.library import Library
from r2rt.service.models import Models
from tests.r2rt.archive.colours import colour_grounder, write_colours


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each table was opened, by name."""
    counts: Counter[str] = Counter()
    dataset = lance.dataset

    def counting(uri: str, **options: Any) -> Any:
        counts[Path(uri).stem] += 1
        return dataset(uri, **options)

    monkeypatch.setattr(lance, "dataset", counting)
    return counts


@pytest.fixture
def place(tmp_path: Path) -> str:
    """A library at an address."""
    write_colours(tmp_path / "videos" / "garden.mp4", ["green", "red"])
    place = (tmp_path / "library").as_uri()
    Archive.open(place, model=colour_grounder(tmp_path)).add(tmp_path / "videos")
    return place


@pytest.mark.parametrize("command", ["index", "search"])
def test_a_command_opens_every_table_once(
    command: str,
    place: str,
    opened: Counter[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = contextlib.nullcontext(colour_grounder(tmp_path))
    monkeypatch.setattr(f"r2rt.cli.{command}.open_model", lambda *_, **__: model)
    monkeypatch.setattr("r2rt.cli.search.warn_of_unknown_words", lambda *_: None)
    monkeypatch.setattr(Archive, "add", lambda *_, **__: IndexReport())
    what = {"index": str(tmp_path / "videos"), "search": "red"}[command]
    assert run([command, place, what, "--quiet"]) == 0
    assert opened == dict.fromkeys(NAMES, 1)


def test_the_service_opens_every_table_once(
    place: str, opened: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grounder = colour_grounder(tmp_path)
    monkeypatch.setattr("r2rt.model.installed.resolve", str)
    models = SimpleNamespace(use=lambda **_: contextlib.nullcontext(grounder))
    library = Library(place, cast("Models", models))
    for _ in range(2):
        (hit,) = library.search("red", 5, None).hits
        assert (hit.start_s, hit.end_s) == (4, 8)
    assert opened == dict.fromkeys(NAMES, 1)


def test_what_is_no_library_is_looked_for_again(tmp_path: Path, opened: Counter[str]) -> None:
    place = (tmp_path / "library").as_uri()
    archive = Archive.open(place, model=colour_grounder(tmp_path))
    assert opened == {"videos": 1}
    with pytest.raises(LibraryError, match=r"library: not a library of videos; `r2rt index "):
        archive.search("red")
    write_colours(tmp_path / "videos" / "garden.mp4", ["green", "red"])
    Archive.open(place, model=colour_grounder(tmp_path)).add(tmp_path / "videos")
    (hit,) = archive.search("red")
    assert (hit.start_s, hit.end_s) == (4, 8)
