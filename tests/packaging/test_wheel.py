"""The built wheel, installed where neither the sources nor PyTorch are, does the main job."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.packaging.conftest import Installation, demo_question

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_wheel_holds_the_runtime_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"r2rt"}
    assert "r2rt/py.typed" in names
    assert {"r2rt/demo/bundle.json", "r2rt/demo/README.md"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_answers_without_the_sources_and_without_torch(installation: Installation) -> None:
    query, assert_right = demo_question()
    out = installation.run(
        *(installation.bin / "r2rt", "ground", installation.folder / "emoji.mp4", query),
        *("--format", "json", "--no-cache"),
    )
    assert_right(out)  # the demo model that the wheel holds
    program = (
        "import importlib.util as u, r2rt, pathlib\n"
        "assert u.find_spec('torch') is None\n"
        f"assert not pathlib.Path(r2rt.__file__).is_relative_to({str(CHECKOUT)!r})\n"
    )
    installation.run(installation.bin / "python", "-c", program)


def test_the_smoke_test_of_the_images_passes(installation: Installation) -> None:
    folder = installation.folder
    out = installation.run(
        folder / "containers" / "smoke.sh", folder / "opt" / "r2rt", folder / "emoji.mp4"
    )
    assert out.startswith("r2rt ")
    assert "a panda: {" in out


def test_it_takes_less_than_400_mb(installation: Installation) -> None:
    files = (path.lstat() for path in (installation.folder / "opt").rglob("*"))
    assert sum(file.st_size for file in files) < 400e6


def test_its_dependencies_fit_each_other(installation: Installation) -> None:
    check = [sys.executable, "-m", "pip", "--python", str(installation.bin / "python"), "check"]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
