"""Deliberately broken kernels: a copy of a module with one passage of its source replaced."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

_serial = itertools.count()


def load_mutant(folder: Path, module: str, old: str, new: str) -> ModuleType:
    """Import a copy of `module` in which `old`, which occurs once, reads `new`."""
    origin = importlib.import_module(module).__file__
    assert origin is not None
    source = Path(origin).read_text()
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {module}"
    name = f"mutant_{next(_serial)}"
    # Operators are registered once a process and name.
    source = source.replace(old, new).replace('"r2rt::', f'"{name}::')
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    mutant = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while it is imported.
    sys.modules[name] = mutant
    spec.loader.exec_module(mutant)
    return mutant
