from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import service


def test_requests_are_counted_over_the_time_that_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients stop asking when the time is over, and their last answers come after it."""
    slow_s, clients = 0.1, 8

    @contextlib.contextmanager
    def served(*_: str) -> Iterator[Any]:
        yield SimpleNamespace(
            resident_mb=1.0, memory_mb=1.0, cpu_s=0.0, started_s=0.0, address="http://none"
        )

    async def load(_address: str, _send: Any, number: int, _seconds: float) -> list[float]:
        time.sleep(slow_s)
        return [slow_s] * number

    monkeypatch.setattr(service, "served", served)
    monkeypatch.setattr(service, "load", load)
    figures = service.measured(clients, 0.04, send=service.search)
    assert figures["requests"] == 4 * clients
    assert 0 < figures["requests_per_s"] <= clients / slow_s


def test_a_command_that_fails_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "benchmarks.service.subprocess.run",
        lambda *_, **__: SimpleNamespace(returncode=10, stderr=b"no file"),
    )
    with pytest.raises(AssertionError, match="no file"):
        service.command_line_s("ground", "nowhere.mp4", "a panda")
