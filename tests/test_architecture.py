"""Folders and the runtime's rooms import only what the contracts in pyproject.toml allow."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

from tests.conftest import CHECKOUT


def test_imports_keep_to_the_contracts() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    command = [str(program), "--config", str(CHECKOUT / "pyproject.toml"), "--no-cache"]
    result = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:]


def test_every_room_of_the_runtime_is_in_the_map() -> None:
    rooms = {path.name for path in (CHECKOUT / "r2rt").iterdir() if path.is_dir()} - {"__pycache__"}
    contributing = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    inside = contributing.split("Inside `r2rt/`:")[1].split("| modules beside them")[0]
    assert rooms <= set(re.findall(r"`(\w+)/`", inside))


# Each comes with another package, which says in which version.
_BROUGHT = {"httpcore2": "httpx2", "mcp-types": "mcp", "pyarrow": "pylance"}


def test_every_package_that_the_runtime_imports_is_a_dependency() -> None:
    """It need not stay one of another package's."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    runtime = set(extras) - {"bench", "dev", "docs", "export", "train"}
    lines = chain(project["dependencies"], *(extras[name] for name in runtime))
    named = {_normal(re.split(r"[^\w.-]", line)[0]) for line in lines}
    sources = [path.read_text(encoding="utf-8") for path in (CHECKOUT / "r2rt").rglob("*.py")]
    imported = {
        name
        for source in sources
        for name in re.findall(r"^ *(?:from|import) (\w+)", source, re.MULTILINE)
    }
    found = packages_distributions()
    without = {
        name
        for name in imported & found.keys()
        if not {_normal(one) for one in found[name]} & (named | _BROUGHT.keys())
    }
    assert without <= {"r2rt"}
    assert named >= set(_BROUGHT.values())


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
