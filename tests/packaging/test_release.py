"""What a release uploads: built reproducibly, accepted by the package index, without dead links."""

from __future__ import annotations

import email
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

pytestmark = pytest.mark.slow

SOURCES = ("r2rt", "README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml")


def build(folder: Path, *, mtime: int, mode: int) -> list[Path]:
    """Build both distributions from a copy whose files have another time and mode."""
    for name in SOURCES:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, folder / name)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
        os.utime(path, (mtime, mtime))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist")]
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    subprocess.run([*command, str(folder)], check=True, capture_output=True, env=environment)
    return sorted((folder / "dist").iterdir())


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build(tmp_path_factory.mktemp("first") / "r2rt", mtime=1_000_000_000, mode=0o644)


@pytest.fixture(scope="module")
def wheel_metadata(distributions: list[Path]) -> email.message.Message:
    with zipfile.ZipFile(distributions[0]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith("dist-info/METADATA"))
        return email.message_from_bytes(wheel.read(name))


def test_two_builds_are_equal(distributions: list[Path], tmp_path: Path) -> None:
    again = build(tmp_path / "elsewhere", mtime=1_700_000_000, mode=0o600)
    assert [path.name for path in again] == [path.name for path in distributions]
    assert [path.suffix for path in again] == [".whl", ".gz"]
    for first, second in zip(distributions, again, strict=True):
        assert (
            hashlib.sha256(first.read_bytes()).digest()
            == hashlib.sha256(second.read_bytes()).digest()
        )


def test_the_package_index_accepts_them(distributions: list[Path]) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, distributions)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("PASSED") == 2


def test_the_description_has_no_dead_links(wheel_metadata: email.message.Message) -> None:
    text = str(wheel_metadata.get_payload())
    assert wheel_metadata["Description-Content-Type"] == "text/markdown"
    assert text.startswith("# r2rt\n")
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert targets
    assert all(target.startswith("https://") for target in targets)


def test_the_source_distribution_builds_the_same_package(distributions: list[Path]) -> None:
    wheel, source = distributions
    with zipfile.ZipFile(wheel) as archive:
        built = {name for name in archive.namelist() if name.startswith("r2rt/")}
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert built <= names
    assert {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml"} <= names
    assert not {name for name in names if name.startswith(("training", "export", "tests"))}
