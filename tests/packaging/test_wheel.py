"""The built wheel, installed where neither the sources nor PyTorch are, does the main job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(CHECKOUT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and what it depends on; returns its `bin` folder."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    constraints = ["-c", CHECKOUT / "constraints.txt"]
    subprocess.run([*map(str, [*install, *constraints, wheel])], check=True, capture_output=True)
    return folder / "bin"


def test_the_wheel_holds_the_runtime_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"r2rt"}
    assert "r2rt/py.typed" in names
    assert {"r2rt/demo/bundle.json", "r2rt/demo/README.md"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_grounds_without_the_sources_and_without_torch(
    environment: Path, tmp_path: Path
) -> None:
    truth = json.loads((CHECKOUT / "demo" / "emoji.json").read_text())["queries"][0]
    (tmp_path / "emoji.mp4").symlink_to(CHECKOUT / "demo" / "emoji.mp4")
    command = [environment / "r2rt", "ground", "emoji.mp4", truth["query"]]
    result = subprocess.run(
        [*map(str, command), "--format", "json", "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"R2RT_HOME": str(tmp_path / "home")},
        check=True,
        capture_output=True,
        text=True,
    )
    # The demo model that the wheel holds, and its answer is right.
    best = json.loads(result.stdout)["results"][0]["moments"][0]
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
    subprocess.run([str(environment / "python"), "-c", program], cwd=tmp_path, check=True)


def test_its_dependencies_fit_each_other(environment: Path) -> None:
    check = [str(environment / "python"), "-m", "pip", "check"]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
