"""The table of jobs; every change of a job's state is one transaction."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from dataclasses import dataclass
from typing import Any, Literal

from r2rt.service.database import Database
from r2rt.service.problems import ProblemError

__all__ = ["FINISHED", "Job", "JobKind", "JobState", "JobStore"]

JobKind = Literal["encode", "ground", "highlights", "summarize", "clips", "export", "index"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
FINISHED: tuple[JobState, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as the database has it; times in seconds since 1970.

    Attributes:
        id: what it is asked for by.
        kind: what it does.
        request: what it was asked for, validated.
        video: the video that it is about, if it is about one.
        owner: name of the token that asked for it.
        state: how far it is.
        attempts: how often it was begun.
        result: what it came to, once it is done.
        error: `code`, `status` and `detail`, once it has failed.
    """

    id: str
    kind: JobKind
    request: dict[str, Any]
    video: str | None
    owner: str
    state: JobState
    attempts: int
    result: Any
    error: dict[str, Any] | None
    created_at: float
    started_at: float | None
    finished_at: float | None


class JobStore:
    """Jobs in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        kind: JobKind,
        request: dict[str, Any],
        *,
        video: str | None,
        owner: str,
        key: str | None = None,
        most: int = 10_000,
    ) -> tuple[Job, bool]:
        """Add a job and return it, and whether it is new.

        Args:
            kind: what it does.
            request: what it is asked for, as plain types.
            video: the video that it is about.
            owner: who asks.
            key: with the same key the same owner gets the same job, however often it asks.
            most: how many may wait.

        Raises:
            ProblemError: the key was used for another request, or too many jobs wait.
        """
        text = json.dumps(request, sort_keys=True)
        with self._database.transaction():
            if key is not None:
                row = self._database.row(
                    "SELECT * FROM jobs WHERE owner = ? AND idempotency_key = ?", (owner, key)
                )
                if row is not None:
                    if (row["kind"], row["request"]) != (kind, text):
                        raise ProblemError(
                            422,
                            "idempotency-key-reused",
                            "this Idempotency-Key was used for another request; use a new one",
                        )
                    return _job(row), False
            if self.count("queued") >= most:
                raise ProblemError(
                    503,
                    "queue-full",
                    f"{most} jobs wait already; try again later",
                    headers={"Retry-After": "60"},
                )
            id_ = secrets.token_hex(8)
            self._database.write(
                "INSERT INTO jobs (id, kind, request, video, owner, state, idempotency_key, "
                "created_at) VALUES (?, ?, ?, ?, ?, 'queued', ?, ?)",
                (id_, kind, text, video, owner, key, time.time()),
            )
        return self.get(id_), True

    def get(self, id_: str) -> Job:
        """Return a job.

        Raises:
            ProblemError: there is none of that id.
        """
        row = self._database.row("SELECT * FROM jobs WHERE id = ?", (id_,))
        if row is None:
            raise ProblemError(404, "no-such-job", "no job has this id; finished ones expire")
        return _job(row)

    def all(self, state: JobState | None = None, *, limit: int = 100) -> list[Job]:
        """Return the newest jobs, of one state or of any; without results, which may be large."""
        rows = self._database.rows(
            "SELECT id, kind, request, video, owner, state, attempts, NULL AS result, error, "
            "created_at, started_at, finished_at FROM jobs WHERE ? IS NULL OR state = ? "
            "ORDER BY created_at DESC, rowid DESC LIMIT ?",
            (state, state, limit),
        )
        return [_job(row) for row in rows]

    def count(self, state: JobState) -> int:
        """Return how many jobs are in a state."""
        row = self._database.row("SELECT count(*) FROM jobs WHERE state = ?", (state,))
        return 0 if row is None else int(row[0])

    def active(self, kind: JobKind, video: str) -> list[Job]:
        """Return the jobs of a kind about a video that wait or run, the oldest first."""
        rows = self._database.rows(
            "SELECT * FROM jobs WHERE kind = ? AND video = ? AND state IN ('queued', 'running') "
            "ORDER BY created_at, rowid",
            (kind, video),
        )
        return [_job(row) for row in rows]

    def claim(self) -> Job | None:
        """Mark the oldest job that waits as running and return it; None if none waits."""
        with self._database.transaction():
            row = self._database.row(
                "SELECT * FROM jobs WHERE state = 'queued' ORDER BY created_at, rowid LIMIT 1"
            )
            if row is None:
                return None
            self._database.write(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, started_at = ? "
                "WHERE id = ?",
                (time.time(), row["id"]),
            )
        return self.get(row["id"])

    def finish(
        self,
        id_: str,
        state: JobState,
        *,
        result: Any = None,
        error: dict[str, Any] | None = None,
    ) -> bool:
        """Finish a job that is not finished, and return whether it was so."""
        return bool(
            self._database.write(
                "UPDATE jobs SET state = ?, result = ?, error = ?, finished_at = ? "
                "WHERE id = ? AND state IN ('queued', 'running')",
                (
                    state,
                    None if result is None else json.dumps(result),
                    None if error is None else json.dumps(error),
                    time.time(),
                    id_,
                ),
            )
        )

    def hand_back(self, id_: str) -> None:
        """Let a running job wait again, as if it had not been begun."""
        self._database.write(
            "UPDATE jobs SET state = 'queued', attempts = attempts - 1, started_at = NULL "
            "WHERE id = ? AND state = 'running'",
            (id_,),
        )

    def retry(self, id_: str) -> None:
        """Let a running job wait again; its attempt counts."""
        self._database.write(
            "UPDATE jobs SET state = 'queued', started_at = NULL "
            "WHERE id = ? AND state = 'running'",
            (id_,),
        )

    def recover(self, max_attempts: int) -> None:
        """Let the jobs wait again that ran when the process ended.

        One that was begun too often has failed: it may be what ends the process.
        """
        error = {
            "status": 500,
            "code": "ended-with-the-service",
            "detail": f"the service ended while this job ran, {max_attempts} times",
        }
        with self._database.transaction():
            self._database.write(
                "UPDATE jobs SET state = 'failed', error = ?, finished_at = ? "
                "WHERE state = 'running' AND attempts >= ?",
                (json.dumps(error), time.time(), max_attempts),
            )
            self._database.write(
                "UPDATE jobs SET state = 'queued', started_at = NULL WHERE state = 'running'"
            )

    def expire(self, before: float) -> list[str]:
        """Forget the jobs that finished before a time, and return their ids."""
        with self._database.transaction():
            rows = self._database.rows(
                "SELECT id FROM jobs WHERE finished_at IS NOT NULL AND finished_at < ?", (before,)
            )
            self._database.write(
                "DELETE FROM jobs WHERE finished_at IS NOT NULL AND finished_at < ?", (before,)
            )
        return [row["id"] for row in rows]


def _job(row: sqlite3.Row) -> Job:
    return Job(
        id=row["id"],
        kind=row["kind"],
        request=json.loads(row["request"]),
        video=row["video"],
        owner=row["owner"],
        state=row["state"],
        attempts=row["attempts"],
        result=json.loads(row["result"]) if row["result"] else None,
        error=json.loads(row["error"]) if row["error"] else None,
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )
