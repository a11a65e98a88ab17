"""Jobs: once a key, in order, cancelled, tried again, handed back, expired."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from r2rt.errors import NotAVideoError
from r2rt.retry import TransientError
from r2rt.service.database import Database
from r2rt.service.hub import Hub
from r2rt.service.jobs.runner import Progress, Runner
from r2rt.service.jobs.store import Job, JobStore
from r2rt.service.problems import ProblemError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    database = Database(tmp_path / "service.db")
    yield JobStore(database)
    database.close()


def add(store: JobStore, **options: Any) -> str:
    request = options.pop("request", {})
    return store.add("encode", request, **({"video": None, "owner": "a"} | options))[0].id


def finished(store: JobStore, *ids: str, within_s: float = 20) -> list[Job]:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        jobs = [store.get(id_) for id_ in ids]
        if all(job.finished_at is not None for job in jobs):
            return jobs
        time.sleep(0.01)
    raise AssertionError([job.state for job in jobs])


class Running:
    """A runner over a store, closed at the end."""

    def __init__(self, store: JobStore, work: Callable[[Job, Progress], Any]) -> None:
        self.runner = Runner(store, Hub(), work, workers=2, max_attempts=3)

    def __enter__(self) -> Runner:
        self.runner.start()
        return self.runner

    def __exit__(self, *_: object) -> None:
        self.runner.close()


def test_a_key_gives_its_owner_the_same_job_however_often(store: JobStore) -> None:
    first = add(store, request={"video": "1"}, key="k")
    assert add(store, request={"video": "1"}, key="k") == first
    assert add(store, request={"video": "1"}, key="k", owner="b") != first
    with pytest.raises(ProblemError, match="another request") as caught:
        add(store, request={"video": "2"}, key="k")
    assert caught.value.status == 422


def test_no_more_wait_than_may(store: JobStore) -> None:
    add(store, most=1)
    with pytest.raises(ProblemError) as caught:
        add(store, most=1)
    assert (caught.value.status, caught.value.code) == (503, "queue-full")


def test_jobs_run_in_order_and_their_results_are_kept(store: JobStore) -> None:
    ids = [add(store, request={"n": number}) for number in range(5)]
    with Running(store, lambda job, _: {"square": job.request["n"] ** 2}):
        jobs = finished(store, *ids)
    assert [job.result["square"] for job in jobs] == [0, 1, 4, 9, 16]
    assert {job.state for job in jobs} == {"done"}


def test_the_list_of_jobs_reads_no_results(store: JobStore) -> None:
    id_ = add(store)
    store.finish(id_, "done", result={"videos": []})
    for state in (None, "done"):
        (listed,) = store.all(state)
        assert (listed.id, listed.state, listed.result) == (id_, "done", None)
    assert store.get(id_).result == {"videos": []}


def test_errors_are_kept_and_faults_say_no_more_than_their_kind(store: JobStore) -> None:
    errors = [NotAVideoError("x: no video"), ProblemError(409, "c", "d"), KeyError("secret")]

    def work(job: Job, _: Progress) -> Any:
        raise errors[job.request["n"]]

    ids = [add(store, request={"n": number}) for number in range(3)]
    with Running(store, work):
        found = [job.error for job in finished(store, *ids)]
    assert found[0] == {"status": 422, "code": "NotAVideoError", "detail": "x: no video"}
    assert found[1] == {"status": 409, "code": "c", "detail": "d"}
    assert found[2] is not None
    assert "secret" not in str(found[2])


def test_what_may_pass_is_tried_again_and_no_more_than_so_often(store: JobStore) -> None:
    tries: list[str] = []

    def work(job: Job, _: Progress) -> str:
        tries.append(job.id)
        if job.request["passes"] and tries.count(job.id) == 2:
            return "passed"
        raise TransientError("not now")

    passing, failing = (add(store, request={"passes": value}) for value in (True, False))
    with Running(store, work):
        jobs = finished(store, passing, failing)
    assert [(job.state, job.attempts) for job in jobs] == [("done", 2), ("failed", 3)]
    assert jobs[0].result == "passed"


def test_a_running_job_is_cancelled_and_one_that_waits_is_never_begun(store: JobStore) -> None:
    begun: list[str] = []
    started = threading.Event()

    def work(job: Job, progress: Progress) -> None:
        begun.append(job.id)
        started.set()
        while True:
            progress(1, 2)
            time.sleep(0.005)

    ids = [add(store) for _ in range(3)]
    with Running(store, work) as runner:
        started.wait(10)
        assert runner.cancel(ids[2]).state == "cancelled"
        assert [runner.cancel(id_).state for id_ in ids[:2]] == ["cancelled"] * 2
        finished(store, *ids)
        fresh = add(store)
        runner.submitted()
        while fresh not in begun:
            time.sleep(0.005)
        runner.cancel(fresh)
    assert ids[2] not in begun
    assert [store.get(id_).result for id_ in ids] == [None] * 3


def test_a_job_that_is_cancelled_as_it_is_claimed_does_not_run(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    running = Running(store, lambda job, _: begun.append(job.id))
    claim = store.claim

    def claim_and_cancel() -> Job | None:
        job = claim()
        if job is not None and job.id == first:
            running.runner.cancel(first)
        return job

    first, second = add(store), add(store)
    monkeypatch.setattr(store, "claim", claim_and_cancel)
    with running:
        assert [job.state for job in finished(store, first, second)] == ["cancelled", "done"]
    assert begun == [second]


def test_a_job_that_another_thread_tries_again_costs_no_thread(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, go_on = threading.Event(), threading.Event()
    retry = store.retry

    def work(job: Job, _: Progress) -> None:
        if job.attempts == 1:
            raise TransientError("not now")
        again.set()
        go_on.wait(10)

    def slow_retry(id_: str) -> None:
        retry(id_)
        running.runner.submitted()
        again.wait(10)  # the other thread has begun it before this one has left it

    monkeypatch.setattr(store, "retry", slow_retry)
    running = Running(store, work)
    id_ = add(store)
    with running as runner:
        again.wait(10)
        go_on.set()
        assert finished(store, id_)[0].state == "done"
        assert sum(thread.is_alive() for thread in runner._threads) == 2


def test_a_full_disk_ends_no_thread_and_loses_no_end(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r2rt.service.jobs.runner._WRITE_AGAIN_S", 0.02)
    full = {"finish": 4, "claim": 3}

    def failing(name: str) -> Callable[..., Any]:
        real = getattr(store, name)

        def fail(*arguments: Any, **options: Any) -> Any:
            if full[name]:
                full[name] -= 1
                raise sqlite3.OperationalError("database or disk is full")
            return real(*arguments, **options)

        return fail

    for name in full:
        monkeypatch.setattr(store, name, failing(name))
    ids = [add(store) for _ in range(3)]
    with Running(store, lambda job, _: job.id) as runner:
        assert [job.result for job in finished(store, *ids)] == ids
        assert sum(thread.is_alive() for thread in runner._threads) == 2
    assert full == {"finish": 0, "claim": 0}


def test_a_result_that_cannot_be_kept_is_a_fault(store: JobStore) -> None:
    id_ = add(store)
    with Running(store, lambda *_: object()):
        job = finished(store, id_)[0]
    assert job.error is not None
    assert (job.state, job.error["code"]) == ("failed", "internal")


def test_closing_hands_running_jobs_back_as_if_they_had_not_begun(store: JobStore) -> None:
    started = threading.Event()

    def work(_: Job, progress: Progress) -> None:
        started.set()
        while True:
            progress(1, 2)
            time.sleep(0.005)

    id_ = add(store)
    with Running(store, work):
        started.wait(10)
    job = store.get(id_)
    assert (job.state, job.attempts) == ("queued", 0)
    with Running(store, lambda *_: "later"):
        assert finished(store, id_)[0].result == "later"


def test_a_job_that_ends_the_process_each_time_fails_in_the_end(store: JobStore) -> None:
    id_ = add(store)
    for _ in range(3):  # as a process that is killed leaves it
        claimed = store.claim()
        assert claimed is not None
        assert claimed.id == id_
        store.recover(3)
    job = store.get(id_)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == "ended-with-the-service"


def test_progress_says_how_long_the_rest_takes() -> None:
    published: list[float] = []
    progress = Progress(lambda: published.append(progress.share))
    began = time.monotonic()
    progress(0, 10)
    time.sleep(0.1)
    progress(5, 10)
    took_s = time.monotonic() - began
    assert progress.remaining_s is not None
    assert 0.1 <= progress.remaining_s <= took_s  # the second half takes as long as the first
    progress(10, 10)
    assert published[-1] == 1.0


def test_finished_jobs_expire_and_others_do_not(store: JobStore) -> None:
    old, waiting = add(store), add(store)
    store.finish(old, "done", result=1)
    assert store.expire(time.time() + 1) == [old]
    assert store.get(waiting).state == "queued"
    with pytest.raises(ProblemError):
        store.get(old)
