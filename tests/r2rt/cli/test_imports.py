"""What a command imports before it has something to do with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("PIL", "av", "httpx2", "lance", "numpy", "onnxruntime", "rich", "tokenizers", "torch")
LIGHT = [
    "--version",
    "--help",
    "cache info",
    "models list",
    *(f"{verb} --help" for verb in ("cache", "doctor", "encode", "ground", "highlights")),
    *(f"{verb} --help" for verb in ("index", "library info", "search")),
    *(f"{verb} --help" for verb in ("models", "summarize", "watch")),
]


def imported(program: str) -> list[str]:
    """The heavy modules that a program imports."""
    report = f"import sys\nprint(*(m for m in {HEAVY} if m in sys.modules), file=sys.stderr)"
    result = subprocess.run(
        [sys.executable, "-c", f"{program}\n{report}"], capture_output=True, text=True, check=True
    )
    return result.stderr.splitlines()[-1].split()


@pytest.mark.parametrize("module", ["r2rt", "r2rt.grounding.prediction", "r2rt.model.bundle"])
def test_data_classes_import_nothing_heavy(module: str) -> None:
    assert imported(f"import {module}") == []


def test_helps_and_lists_import_nothing_heavy() -> None:
    """In one process: what a command imports stays imported."""
    commands = [command.split() for command in LIGHT]
    calls = f"from r2rt.cli.main import run\nassert not any(map(run, {commands}))"
    assert imported(calls) == []
