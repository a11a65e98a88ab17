"""The wheel with the newest and with the oldest dependencies that pyproject.toml allows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.packaging.conftest import demo_question

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Tests of what most depends on PyAV, NumPy, ONNX Runtime, click and mcp, run from the checkout.
_TESTS = (
    "tests/r2rt/cli/test_log.py",
    "tests/r2rt/grounding/test_encoded.py",
    "tests/r2rt/grounding/test_moments.py",
    "tests/r2rt/media/test_names.py",
    "tests/r2rt/video/test_container.py",
    "tests/r2rt/video/test_damage.py",
    "tests/r2rt/service/mcp/test_tools.py",
    "tests/r2rt/video/test_foreign_kinds.py",
    "tests/r2rt/video/test_nearest.py",
)
_PYPROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


@dataclass(frozen=True)
class Versions:
    """Which Python and which versions of the direct dependencies an environment has."""

    python: Path
    resolution: str


def pythons() -> dict[tuple[int, int], Path]:
    """The interpreters of this machine that the project supports, by version."""
    paths = [Path(sys.executable), *Path.home().glob(".pyenv/versions/*/bin/python")]
    names = (f"python3.{minor}" for minor in range(11, 30))
    paths += [Path(found) for found in map(shutil.which, names) if found]
    found = {}
    for path in paths:
        command = [str(path), "-c", "import sys; print(*sys.version_info[:2])"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            major, minor = map(int, result.stdout.split())
            if (major, minor) >= (3, 11):
                found[major, minor] = path
    return found


@pytest.fixture(scope="module", params=["newest", "lowest"])
def environment(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An environment with the wheel and nothing of the checkout; returns its `bin` folder."""
    found = pythons()
    if request.param == "newest":
        versions = Versions(found[max(found)], "highest")
    else:
        versions = Versions(found[min(found)], "lowest-direct")
    folder = tmp_path_factory.mktemp(request.param)
    uv: list[str | Path] = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", versions.python, folder], check=True)
    install: list[str | Path] = [*uv, "pip", "install", "--python", folder / "bin" / "python"]
    # The wheel's own dependencies are direct ones only where pyproject.toml names them.
    direct: list[str | Path] = [
        "--resolution",
        versions.resolution,
        "-r",
        CHECKOUT / "pyproject.toml",
        "--extra",
        "serve",
    ]
    subprocess.run([*install, *direct], check=True)
    subprocess.run([*install, "--no-deps", wheel], check=True)
    tools = ["hypothesis", "pytest", "pytest-timeout"]
    subprocess.run([*install, *tools], check=True)
    return folder / "bin"


def installed(environment: Path) -> dict[str, str]:
    command = [sys.executable, "-m", "uv", "--quiet", "pip", "list", "--format", "json"]
    result = subprocess.run(
        [*command, "--python", environment / "python"], check=True, capture_output=True, text=True
    )
    return {item["name"]: item["version"] for item in json.loads(result.stdout)}


def test_the_oldest_and_newest_are_installed(environment: Path) -> None:
    versions = installed(environment)
    lowest = dict(line.split(">=") for line in _PYPROJECT["dependencies"])
    if environment.parent.name.startswith("lowest"):
        for name, version in lowest.items():
            assert versions[name].startswith(version), f"{name} {versions[name]}"
    else:
        supported = {
            line.rpartition(" ")[2]
            for line in _PYPROJECT["classifiers"]
            if line.startswith("Programming Language :: Python :: 3.")
        }
        assert ".".join(map(str, max(pythons()))) in supported


def test_it_finds_what_is_in_the_demo(environment: Path, tmp_path: Path) -> None:
    query, assert_right = demo_question()
    command = [environment / "r2rt", "ground", CHECKOUT / "demo" / "emoji.mp4", query]
    result = subprocess.run(
        [*map(str, command), "--format", "json", "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"R2RT_HOME": str(tmp_path), "PYTHONPATH": ""},
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert_right(result.stdout)


def test_the_tests_of_what_dependencies_do_pass(environment: Path) -> None:
    command = [environment / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *_TESTS]
    result = subprocess.run(
        list(map(str, command)),
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": ""},
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
