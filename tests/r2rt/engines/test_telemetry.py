"""Grounding writes no device id and reports nothing to the maker of ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import CHECKOUT

PROGRAM = """
import numpy as np, r2rt
grounder = r2rt.Grounder.load("demo/random-tiny")
grounder.ground(np.zeros((4, 8, 8, 3), np.uint8), "a dog", source_fps=1)
"""


def test_the_users_folder_stays_empty(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    # A clean environment: ONNX Runtime suppresses reports on build machines by itself.
    environment = {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(CHECKOUT),
        "R2RT_CACHE": str(tmp_path / "cache"),
    }
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert not [path for path in home.rglob("*") if path.is_file()]
