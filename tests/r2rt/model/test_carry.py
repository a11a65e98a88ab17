"""A model goes from one machine to another in one file, and arrives as it was or not at all."""

from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from r2rt.errors import (
    BundleDamagedError,
    HashMismatchError,
    ModelNotFoundError,
    OutputError,
    QueryError,
    SourceNotFoundError,
)
from r2rt.model.bundle import Bundle
from r2rt.model.carry import export_model, import_model
from r2rt.model.installed import installed, models_dir
from tests.r2rt.bundles import fake_files, write_bundle


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / "here"))


@pytest.fixture
def carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A file of model `mine`, and its hash; the machine that we are on has no model."""
    files = {**fake_files(), "engines/x-y/grounder.engine": b"engine"}
    write_bundle(models_dir() / "mine", files)
    digest = export_model("mine", tmp_path / "mine.r2rt")
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / "there"))
    return tmp_path / "mine.r2rt", digest


def test_what_arrives_is_what_was_sent(carried: tuple[Path, str], tmp_path: Path) -> None:
    file, digest = carried
    folder = import_model(file, sha256=digest[:16])
    assert folder == models_dir() / "mine"
    sent = Bundle.open(tmp_path / "here" / "models" / "mine")
    assert Bundle.open(folder, verify="always").manifest == sent.manifest
    assert import_model(file) == folder


def test_a_file_that_changed_on_the_way_is_refused(carried: tuple[Path, str]) -> None:
    file, digest = carried
    data = bytearray(file.read_bytes())
    at = data.index(b"engine", data.index(b"grounder.engine") + 15)
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(HashMismatchError, match="copy it again"):
        import_model(file, sha256=digest)
    with pytest.raises(BundleDamagedError, match="copy it again"):
        import_model(file)
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleDamagedError, match="no file of `r2rt models export`"):
        import_model(file)
    assert installed() == ()


@pytest.mark.parametrize(("in_entry", "in_directory", "value"), [(6, 8, 1), (8, 10, 12)])
def test_a_flag_or_method_that_changed_on_the_way(
    carried: tuple[Path, str], in_entry: int, in_directory: int, value: int
) -> None:
    """The file then seems to be encrypted, or packed by bzip2."""
    file, _ = carried
    data = bytearray(file.read_bytes())
    for at, sign in ((in_entry, b"PK\3\4"), (in_directory, b"PK\1\2")):
        data[data.index(sign) + at] = value
    file.write_bytes(data)
    with pytest.raises(BundleDamagedError, match="copy it again"):
        import_model(file)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", ""])
def test_a_name_that_leaves_the_folder_is_refused(carried: tuple[Path, str], name: str) -> None:
    file, _ = carried
    with zipfile.ZipFile(file) as old:
        entries = {entry: old.read(entry) for entry in old.namelist()}
    with zipfile.ZipFile(file, "w") as new:
        for entry, content in (entries | {"NAME": name.encode()}).items():
            new.writestr(entry, content)
    with pytest.raises(QueryError, match="no name of a model"):
        import_model(file)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="No such file"):
        import_model(tmp_path / "nowhere")
    with pytest.raises(ModelNotFoundError):
        export_model("nonesuch", tmp_path / "file")


def test_files_older_than_a_zip_can_say_are_carried(tmp_path: Path) -> None:
    write_bundle(models_dir() / "mine", fake_files())
    for file in (models_dir() / "mine").iterdir():
        os.utime(file, (0, 0))  # as in a reproducible installation
    export_model("mine", tmp_path / "mine.zip")
    assert import_model(tmp_path / "mine.zip") == models_dir() / "mine"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_a_file_that_was_packed_again(carried: tuple[Path, str], method: int) -> None:
    file, _ = carried
    with zipfile.ZipFile(file) as old:
        entries = {entry: old.read(entry) for entry in old.namelist()}
    with zipfile.ZipFile(file, "w", method) as new:
        for entry, content in entries.items():
            new.writestr(entry, content)
        first = new.infolist()[2]
    data = bytearray(file.read_bytes())
    start = first.header_offset + 30 + len(first.filename)
    data[start : start + first.compress_size] = b"\xff" * first.compress_size
    file.write_bytes(data)
    with pytest.raises(BundleDamagedError, match="copy it again"):
        import_model(file)
    assert installed() == ()


def test_a_full_disk_is_no_fault_of_the_file(
    carried: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = carried
    opened = Path.open

    def full(path: Path, mode: str = "r", *others: Any) -> Any:
        if mode == "wb" and path.suffix == ".onnx":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, mode, *others)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match="No space left"):
        import_model(file)


@pytest.mark.parametrize("digest", ["", "a", "not a hash"])
def test_a_hash_that_is_none_is_refused(carried: tuple[Path, str], digest: str) -> None:
    with pytest.raises(QueryError, match="no sha256"):
        import_model(carried[0], sha256=digest)
