"""A few kills of writers of one library; `python -m tests.kills.archive` does more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kills.archive import run_kills


@pytest.mark.slow
def test_no_row_is_lost_doubled_or_wrong(tmp_path: Path) -> None:
    assert run_kills(tmp_path, kills=5, seed=1, writers=2, readers=1) == []
