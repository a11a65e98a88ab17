"""The built wheel, installed where neither the sources nor PyTorch are, does the main job."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.packaging.conftest import Installation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_wheel_holds_the_runtime_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"r2rt"}
    assert "r2rt/py.typed" in names
    assert {"r2rt/demo/bundle.json", "r2rt/demo/README.md"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_answers_without_the_sources_and_without_torch(installation: Installation) -> None:
    truth = json.loads((CHECKOUT / "demo" / "emoji.json").read_text())["queries"][0]
    out = installation.run(
        *(installation.bin / "r2rt", "ground", installation.folder / "emoji.mp4", truth["query"]),
        *("--format", "json", "--no-cache"),
    )
    # The demo model that the wheel holds, and its answer is right.
    best = json.loads(out)["results"][0]["moments"][0]
    assert any(
        min(best["end_s"], end_s) - max(best["start_s"], start_s)
        > 0.5 * (max(best["end_s"], end_s) - min(best["start_s"], start_s))
        for start_s, end_s in truth["true_s"]
    )
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
