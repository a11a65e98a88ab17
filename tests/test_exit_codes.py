"""One exit code means one thing, across all packages of a checkout."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("r2rt", "kernels", "export", "training", "benchmarks")


def exit_codes_in(source: str) -> dict[str, int]:
    """Return what each class of a module sets its `exit_code` to."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef):
            continue
        for line in node.body:
            match line:
                case (
                    ast.Assign(targets=[ast.Name("exit_code")], value=ast.Constant(int(code)))
                    | ast.AnnAssign(target=ast.Name("exit_code"), value=ast.Constant(int(code)))
                ):
                    found[node.name] = code
    return found


@pytest.mark.parametrize("line", ["exit_code = 7", "exit_code: ClassVar[int] = 7"])
def test_it_sees_them(line: str) -> None:
    assert exit_codes_in(f"class A(Exception):\n    {line}\n") == {"A": 7}


def test_no_two_errors_share_an_exit_code() -> None:
    classes: dict[int, set[str]] = defaultdict(set)
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for name, code in exit_codes_in(path.read_text(encoding="utf-8")).items():
                classes[code].add(f"{path.relative_to(ROOT)}: {name}")
    assert len(classes) > 30
    assert {code: names for code, names in classes.items() if len(names) > 1} == {}
