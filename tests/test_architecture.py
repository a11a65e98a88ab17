"""Folders and the runtime's rooms import only what the contracts in pyproject.toml allow."""

from __future__ import annotations

import re
import subprocess
import sys
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
