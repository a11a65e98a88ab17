"""A few inputs of every kind; `python -m tests.fuzz` tries more."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from r2rt.errors import QueryError
from tests.fuzz import worker
from tests.fuzz.kinds import KINDS, Kind, prepared
from tests.fuzz.mutate import damage, damage_json
from tests.fuzz.runner import FAULTS, Fuzzer, table


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    fuzzer = Fuzzer(tmp_path_factory.mktemp("fuzz"))
    yield fuzzer
    fuzzer.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_read_or_refused(fuzzer: Fuzzer, kind: str) -> None:
    before = len(fuzzer.faults)
    outcomes = [fuzzer.try_input(kind, seed) for seed in (1, 2)]
    assert not set(outcomes) & set(FAULTS), fuzzer.faults[before:]
    assert fuzzer.counts[kind]["tried"] >= 2


# Inputs whose loss nothing reported once.
@pytest.mark.parametrize(
    ("kind", "seed"),
    [("MPEG-TS, H.264", 9005), ("MPEG-TS, H.264", 9036), ("Matroska, H.264", 9011)],
)
def test_losses_are_reported(fuzzer: Fuzzer, kind: str, seed: int) -> None:
    assert fuzzer.try_input(kind, seed) == "read"


@pytest.mark.parametrize("kind", KINDS)
def test_the_originals_are_sound(fuzzer: Fuzzer, kind: str, tmp_path: Path) -> None:
    """What is refused is refused because of the damage."""
    root = fuzzer.root if fuzzer.counts else tmp_path
    assert not KINDS[kind].read(prepared(root, kind))


def test_a_reader_that_takes_long_is_a_hang(fuzzer: Fuzzer, tmp_path: Path) -> None:
    kind = "list of videos"
    hasty = Fuzzer(fuzzer.root, hang_s=0.0)
    try:
        assert hasty.try_input(kind, 1) == "hang"
    finally:
        hasty.close()
    assert table(hasty.counts).splitlines()[1].removeprefix(kind).split()[:6:5] == ["1", "1"]
    assert len(hasty.faults) == 1


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (QueryError("one line"), "refused"),
        (QueryError("two\nlines"), "traceback"),
        (IndexError("x"), "traceback"),
        (KeyboardInterrupt(), "traceback"),
        (None, "read"),
        (True, "silent loss"),
    ],
)
def test_outcomes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException | bool | None,
    outcome: str,
) -> None:
    def read(_: Path) -> bool | None:
        if isinstance(raised, BaseException):
            raise raised
        return raised

    monkeypatch.setitem(KINDS, "made up", Kind(lambda _: None, lambda *_: None, read))
    assert worker.read(tmp_path, "made up", 0)["outcome"] == outcome


def test_damage_depends_on_the_seed_alone() -> None:
    content = b'{"a": [1, 2, {"b": "c"}], "d": 0.5}' * 1
    for change in (damage, damage_json):
        first = [change(content, random.Random(seed)) for seed in range(50)]
        assert first == [change(content, random.Random(seed)) for seed in range(50)]
        assert len(set(first)) > 30
