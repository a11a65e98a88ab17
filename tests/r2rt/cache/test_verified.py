"""Which bundles were verified is remembered, whatever their folders are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from r2rt.cache.verified import is_verified, remember_verified


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", [b"bundle", b"caf\xe9"])
def test_it_holds_until_a_file_changes(tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / os.fsdecode(name)
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    (folder / "a").write_bytes(b"1")
    assert not is_verified(folder, ["a"])
    remember_verified(folder, ["a"])
    assert is_verified(folder, ["a"])
    (folder / "a").write_bytes(b"12")
    assert not is_verified(folder, ["a"])


def test_a_damaged_note_counts_as_none(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    remember_verified(tmp_path, ["a"])
    (note,) = (cache / "verified").iterdir()
    note.write_bytes(b"\xff" * 64)
    assert not is_verified(tmp_path, ["a"])
    remember_verified(tmp_path, ["a"])
    assert is_verified(tmp_path, ["a"])
