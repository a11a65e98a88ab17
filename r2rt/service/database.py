"""The SQLite database of a service: one connection that threads share, one schema."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from r2rt.errors import ServiceStateError

__all__ = ["Database"]

_VERSION = 1
_SCHEMA = """
CREATE TABLE videos (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    origin TEXT NOT NULL,       -- path, upload, url or library
    path TEXT NOT NULL UNIQUE,  -- where the file is, or will be; below `videos` relative
    url TEXT,
    state TEXT NOT NULL,
    error TEXT,
    facts TEXT,                 -- JSON, once the file was looked at
    added_at REAL NOT NULL
);
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    request TEXT NOT NULL,      -- JSON
    video TEXT,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    result TEXT,                -- JSON
    error TEXT,                 -- JSON
    idempotency_key TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    UNIQUE (owner, idempotency_key)
);
CREATE INDEX jobs_by_state ON jobs (state, created_at);
CREATE TABLE uploads (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    length INTEGER NOT NULL,
    created_at REAL NOT NULL,
    video TEXT
);
CREATE TABLE tokens (
    name TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL,
    scopes TEXT NOT NULL,       -- separated by spaces
    created_at REAL NOT NULL
);
CREATE TABLE annotations (
    video TEXT NOT NULL,
    place INTEGER NOT NULL,
    record TEXT NOT NULL,       -- JSON
    PRIMARY KEY (video, place)
);
CREATE TABLE watches (
    id TEXT PRIMARY KEY,
    request TEXT NOT NULL,      -- JSON
    state TEXT NOT NULL,        -- running, ended or failed
    error TEXT,
    created_at REAL NOT NULL
);
"""


class Database:
    """A database that survives the end of the process at any moment.

    Args:
        path: the file; made if it is not there.

    Raises:
        ServiceStateError: it cannot be opened, or another version of r2rt made it.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=10, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            with self.transaction():
                version = self._connection.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    for statement in _SCHEMA.split(";\n"):
                        self._connection.execute(statement)
                    self._connection.execute(f"PRAGMA user_version = {_VERSION}")
        except (OSError, sqlite3.Error) as error:
            raise ServiceStateError(
                f"{path}: cannot be opened ({error}); give another folder with --state"
            ) from error
        if version not in (0, _VERSION):
            self.close()
            raise ServiceStateError(
                f"{path}: of version {version}, this r2rt reads {_VERSION}; "
                "give another folder with --state"
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make what the block writes permanent together, or not at all if it raises."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite ends it itself on a full disk
                    self._connection.execute("ROLLBACK")
                raise

    def write(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run one statement and return how many rows it changed."""
        with self._lock:
            return self._connection.execute(statement, values).rowcount

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return the rows that a query finds."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def row(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Row | None:
        """Return the first row that a query finds; None if there is none."""
        with self._lock:
            found: sqlite3.Row | None = self._connection.execute(query, values).fetchone()
            return found
