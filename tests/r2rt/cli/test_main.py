"""How an error that nobody expected ends a command."""

from __future__ import annotations

import pytest

from r2rt.cli.main import run


@pytest.fixture
def _faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise KeyError("a fault\nof two lines")

    monkeypatch.setattr("r2rt.cli.main._load", fail)


@pytest.mark.usefixtures("_faulty")
def test_a_fault_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("R2RT_DEBUG", raising=False)
    assert run(["doctor"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "internal error: KeyError" in line
    assert "R2RT_DEBUG=1" in line


@pytest.mark.usefixtures("_faulty")
def test_its_traceback_is_shown_where_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2RT_DEBUG", "1")
    with pytest.raises(KeyError, match="a fault"):
        run(["doctor"])
