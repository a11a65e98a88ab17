"""A disk that is full: what fails says so, and what comes later works."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from r2rt.service.database import Database
from tests.r2rt.service.conftest import Run, Served

_INSERT = "INSERT INTO watches (id, request, state, created_at) VALUES (?, ?, 'ended', 0)"


def test_a_transaction_on_a_full_disk_says_so_and_the_next_one_works(tmp_path: Path) -> None:
    database = Database(tmp_path / "service.db")
    pages = database.row("PRAGMA page_count")
    assert pages is not None
    database.row(f"PRAGMA max_page_count = {pages[0] + 2}")

    def fill() -> None:
        with database.transaction():
            for number in range(100):
                database.write(_INSERT, (str(number), "x" * 4000))

    with pytest.raises(sqlite3.OperationalError, match="full"):
        fill()
    database.row("PRAGMA max_page_count = 100000")
    assert database.rows("SELECT * FROM watches") == []
    with database.transaction():
        database.write(_INSERT, ("1", "x"))
    assert len(database.rows("SELECT * FROM watches")) == 1
    database.close()


def test_tidying_goes_on_after_it_failed(served: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r2rt.service.service._TIDY_S", 0.01)

    async def test(it: Served) -> None:
        tidied = asyncio.Event()
        loop = asyncio.get_running_loop()
        times: list[float] = []

        def expire(before: float) -> list[str]:
            times.append(before)
            if len(times) == 1:
                raise sqlite3.OperationalError("database or disk is full")
            loop.call_soon_threadsafe(tidied.set)
            return []

        monkeypatch.setattr(it.service.jobs, "expire", expire)
        await asyncio.wait_for(tidied.wait(), 5)

    served(test)


def test_a_request_that_cannot_be_noted_is_no_fault(
    served: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    async def test(it: Served) -> None:
        monkeypatch.setattr(it.service.uploads, "begin", full)
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "10"}
        response = await it.post("/uploads", headers=headers)
        assert (response.status_code, response.json()["code"]) == (503, "state-unwritable")
        assert "full" in response.json()["detail"]

    served(test)
