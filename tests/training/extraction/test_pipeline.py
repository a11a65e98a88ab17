"""Processes that end before their time, and runs that do."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.training.extraction import workers
from tests.training.extraction.workers import Task
from training.extraction import pipeline, ray_pool
from training.extraction.errors import ExtractionError
from training.extraction.worker import Outcome


@pytest.fixture(autouse=True)
def light_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_start_worker", workers.start)
    monkeypatch.setattr(pipeline, "_work", workers.work)


def run(*tasks: Task) -> Iterator[Any]:
    jobs: Any = list(tasks)
    setup: Any = None
    return pipeline.run_jobs(jobs, setup, workers=2)


def test_a_video_that_kills_its_worker_is_reported_and_the_others_are_made() -> None:
    names = ["a", "killer", "b", "c", "d"]
    outcomes = list(run(*map(Task, names)))
    assert sorted(each for each in outcomes if isinstance(each, str)) == ["a", "b", "c", "d"]
    (failed,) = [each for each in outcomes if isinstance(each, Outcome)]
    assert failed.failures[0].startswith("killer: its worker ended early")


@pytest.mark.slow
@pytest.mark.timeout(1500)  # Ray needs minutes to start on a busy machine
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves its own pipes open
def test_so_it_is_with_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed; pip install 'r2rt[train]'")
    monkeypatch.setattr(ray_pool, "Worker", workers.Worker)
    monkeypatch.setattr(ray_pool, "_RETRIES", 1)
    jobs: Any = [Task(name) for name in ("killer", "a", "b")]
    setup: Any = SimpleNamespace(settings=SimpleNamespace(threads=1))
    outcomes, handler = [], signal.getsignal(signal.SIGTERM)
    for outcome in ray_pool.run_on_ray(jobs, setup, workers=1, address=None, gpus=0.0):
        # Ray has a handler of its own, which would end a run without a word.
        assert signal.getsignal(signal.SIGTERM) is handler
        outcomes.append(outcome)
    assert [each for each in outcomes if isinstance(each, str)] == ["a", "b"]
    (failed,) = [each for each in outcomes if isinstance(each, Outcome)]
    assert failed.failures[0].startswith("killer: its worker ended early")


def test_workers_that_always_end_early_end_the_run() -> None:
    with pytest.raises(ExtractionError, match="workers end early"):
        list(run(*[Task(f"killer{index}") for index in range(20)]))


def test_an_interrupted_run_does_not_wait_for_the_videos_that_are_being_made(
    tmp_path: Path,
) -> None:
    begun = tmp_path / "begun"
    found: Any = run(Task("a"), Task("long", str(begun)), Task("b"))
    next(found)
    while not begun.exists():
        time.sleep(0.01)
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        found.throw(KeyboardInterrupt)
    assert time.monotonic() - before < 30
