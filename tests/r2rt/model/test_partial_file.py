from __future__ import annotations

from pathlib import Path

import pytest

from r2rt.model import partial_file
from r2rt.model.partial_file import locked_part


def test_a_kill_while_a_file_lands_leaves_no_state_without_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No later run fetches a file that is there, so none would remove the state."""
    seen: list[set[str]] = []
    monkeypatch.setattr(
        partial_file, "replace", lambda *_: seen.append({x.name for x in tmp_path.iterdir()})
    )
    with locked_part(tmp_path / "model.bin") as part:
        part.restart(url="http://127.0.0.1/model.bin", validator='"1"')
        part.write(b"whole")
        part.land()
    assert seen
    assert "model.bin.part.json" not in seen[0]


def test_a_part_without_its_state_is_resumed_from_an_unknown_place(tmp_path: Path) -> None:
    (tmp_path / "model.bin.part").write_bytes(b"half")
    with locked_part(tmp_path / "model.bin") as part:
        assert (part.size, part.url, part.validator) == (4, None, None)
