"""A few kills of every command; `python -m tests.kills` does more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kills.jobs import JOBS
from tests.kills.runner import kill_job


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_nothing_is_half_written_and_nothing_left(name: str, tmp_path: Path) -> None:
    if name in ("quantise", "export"):
        pytest.importorskip("onnxscript", reason="exporting needs onnxscript")
    kills = 2 if name == "export" else 4  # one export takes longer than all others together
    result = kill_job(name, tmp_path, kills=kills, seed=1, batch=2)
    assert result.faults == []
    assert sum(result.kills.values()) > 0
