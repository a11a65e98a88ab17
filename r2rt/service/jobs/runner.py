"""Threads that run jobs, and the progress of those that run."""

from __future__ import annotations

import contextlib
import functools
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from r2rt.errors import R2rtError
from r2rt.files import as_text
from r2rt.retry import TransientError
from r2rt.service.hub import Hub
from r2rt.service.jobs.store import FINISHED, Job, JobStore
from r2rt.service.problems import ProblemError

__all__ = ["Progress", "Runner", "Work"]

_log = logging.getLogger(__name__)

# Progress is published no more often than this, and at the end.
_PUBLISH_S = 0.2
_SMOOTHING = 0.3
# A database that cannot be written, such as on a full disk, is tried again so often.
_WRITE_AGAIN_S = 5.0


class _EndedError(BaseException):
    """Raised inside a job that shall end; no handler of errors may take it for one."""

    def __init__(self, why: Literal["cancelled", "closing"]) -> None:
        super().__init__(why)
        self.why = why


@dataclass
class Progress:
    """What a running job reports to, and whether it shall end; `__call__` from its thread.

    Attributes:
        share: how much is done, 0 to 1.
        remaining_s: how long the rest will take, from how fast it went so far; None if unknown.
    """

    publish: Callable[[], None]
    share: float = 0.0
    remaining_s: float | None = None
    ends: Literal["cancelled", "closing"] | None = None
    _began: float = field(default_factory=time.monotonic)
    _last: float = 0.0

    def __call__(self, done: int, total: int | None) -> None:
        """Note how much of the total is done, and raise if the job must end."""
        if self.ends is not None:
            raise _EndedError(self.ends)
        if not total:
            return
        now = time.monotonic()
        self.share = min(done / total, 1.0)
        if done:
            left_s = (now - self._began) * (1 - self.share) / max(self.share, 1e-9)
            before = self.remaining_s
            self.remaining_s = left_s if before is None else before + _SMOOTHING * (left_s - before)
        else:
            self._began = now
        if now - self._last >= _PUBLISH_S or done >= total:
            self._last = now
            self.publish()


# Does a job and returns its result as plain types.
Work = Callable[[Job, Progress], Any]


class Runner:
    """Runs the jobs of a store.

    Args:
        store: where jobs are.
        hub: gets `job` documents under the topic `job:ID`.
        work: does one job.
        workers: how many run at the same time.
        max_attempts: how often a job is tried that fails for a reason that may pass.
    """

    def __init__(
        self, store: JobStore, hub: Hub, work: Work, *, workers: int, max_attempts: int
    ) -> None:
        self._store = store
        self._hub = hub
        self._work = work
        self._max_attempts = max_attempts
        self._running: dict[str, Progress] = {}
        self._lock = threading.Lock()
        self._wake = threading.Condition()
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"r2rt-job-{number}", daemon=True)
            for number in range(workers)
        ]

    def start(self) -> None:
        """Begin; jobs that ran when the process ended wait again."""
        self._store.recover(self._max_attempts)
        for thread in self._threads:
            thread.start()

    def close(self, timeout_s: float = 30.0) -> None:
        """Begin no further job and hand back those that run; wait for their threads to end."""
        with self._wake:
            self._closing.set()
            self._wake.notify_all()
        with self._lock:
            for progress in self._running.values():
                progress.ends = "closing"
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(deadline - time.monotonic(), 0.0))

    def submitted(self) -> None:
        """Look for jobs that wait."""
        with self._wake:
            self._wake.notify()

    def cancel(self, id_: str) -> Job:
        """End a job, or do not begin it, and return it; a finished one stays as it is.

        Raises:
            ProblemError: there is none of that id.
        """
        job = self._store.get(id_)
        if job.state in FINISHED:
            return job
        with self._lock:
            progress = self._running.get(id_)
            if progress is not None:
                progress.ends = "cancelled"
        if self._store.finish(id_, "cancelled"):
            self._publish(id_)
        return self._store.get(id_)

    def document(self, job: Job) -> dict[str, Any]:
        """Return what the interface says of a job."""
        progress = self._running.get(job.id)
        share = 1.0 if job.state == "done" else 0.0 if progress is None else progress.share
        return {
            "id": job.id,
            "kind": job.kind,
            "video": job.video,
            "state": job.state,
            "progress": round(share, 4),
            "remaining_s": None
            if progress is None or progress.remaining_s is None or job.state != "running"
            else round(progress.remaining_s, 1),
            "attempts": job.attempts,
            "result": job.result,
            "error": job.error,
            "created_at": job.created_at,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
        }

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                with self._wake:
                    job = None if self._closing.is_set() else self._store.claim()
                    if job is None and not self._closing.is_set():
                        self._wake.wait()
            except sqlite3.OperationalError:
                self._wait_to_write("no job can be begun")
            else:
                if job is not None:
                    self._do(job)

    def _do(self, job: Job) -> None:
        progress = Progress(lambda: self._publish(job.id))
        with self._lock:
            self._running[job.id] = progress
            if self._closing.is_set():
                progress.ends = "closing"
        self._publish(job.id)
        try:
            self._note(job, self._outcome(job, progress))
        finally:
            with self._lock:
                # One that is tried again may have been begun by another thread.
                if self._running.get(job.id) is progress:
                    del self._running[job.id]
            self._publish(job.id)

    def _outcome(self, job: Job, progress: Progress) -> Callable[[], object]:
        """Do a job, and return what notes how it ended."""
        fail = functools.partial(self._fail, job)
        try:
            if self._store.get(job.id).state in FINISHED:  # cancelled before its progress was known
                return lambda: None
            result = self._work(job, progress)
            return functools.partial(self._store.finish, job.id, "done", result=result)
        except _EndedError as end:
            back = functools.partial(self._store.hand_back, job.id)
            return back if end.why == "closing" else lambda: None
        except TransientError as error:
            if job.attempts < self._max_attempts:
                return functools.partial(self._store.retry, job.id)
            return functools.partial(
                fail, ProblemError(502, "failed-too-often", as_text(str(error)))
            )
        except R2rtError as error:
            return functools.partial(fail, ProblemError.of(error))
        except ProblemError as error:
            return functools.partial(fail, error)
        except Exception as error:
            return functools.partial(fail, _fault(job, error))

    def _note(self, job: Job, end: Callable[[], object]) -> None:
        """Note how a job ended, when it can be written; the next process does it again if never."""
        while True:
            try:
                end()
            except sqlite3.OperationalError:
                if self._wait_to_write(f"the end of job {job.id} cannot be noted"):
                    return
            except Exception as error:  # such as a result that is too large
                end = functools.partial(self._fail, job, _fault(job, error))
            else:
                return

    def _wait_to_write(self, what: str) -> bool:
        """Wait for a database that cannot be written; return whether the runner closes."""
        _log.warning("%s; trying again in %g s", what, _WRITE_AGAIN_S, exc_info=True)
        return self._closing.wait(_WRITE_AGAIN_S)

    def _fail(self, job: Job, problem: ProblemError) -> None:
        error = {"status": problem.status, "code": problem.code, "detail": problem.detail}
        self._store.finish(job.id, "failed", error=error)

    def _publish(self, id_: str) -> None:
        # It was removed, or the database cannot be read.
        with contextlib.suppress(ProblemError, sqlite3.Error):
            self._hub.publish(f"job:{id_}", self.document(self._store.get(id_)))


def _fault(job: Job, error: Exception) -> ProblemError:
    _log.error("job %s (%s) failed", job.id, job.kind, exc_info=error)
    return ProblemError.fault(error)
