"""Models are unloaded when they are idle, and their memory is given back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import CHECKOUT

PROGRAM = """
import json
from r2rt.service.metrics import resident_bytes
from r2rt.service.models import Models, give_back_memory

models = Models("demo", "cpu", idle_s=0.0)

def ask():
    with models.use() as grounder:
        return [m.start_s for m in grounder.ground("demo/shapes.mp4", "a red circle").moments]

first = ask()
loaded = resident_bytes()
assert models.unload_idle() == 1
give_back_memory()
print(json.dumps([loaded, resident_bytes(), first, ask(), models.loads]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_given_back_and_models_answer_again() -> None:
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    loaded, unloaded, first, second, loads = json.loads(result.stdout)
    assert first == second
    assert loads == 2
    assert unloaded < 0.85 * loaded
