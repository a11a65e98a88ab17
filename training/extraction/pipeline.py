"""Who does the jobs: this process, processes of this machine, or Ray's workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized

from training.extraction.errors import ExtractionError
from training.extraction.jobs import Job
from training.extraction.worker import MOST_DEATHS, Outcome, Setup, Worker, died

__all__ = ["gpu_of", "run_jobs", "workers_on"]


def run_jobs(
    jobs: list[Job],
    setup: Setup,
    *,
    workers: int,
    gpus: float = 0.0,
    ray: bool = False,
    address: str | None = None,
) -> Iterator[Outcome]:
    """Do jobs and yield what became of each, in any order.

    Args:
        jobs: what there is to make.
        setup: what it is made with, and where it goes.
        workers: how many processes; 0 does the jobs in this one.
        gpus: GPUs of each process; a fraction shares one.
        ray: whether Ray starts the processes.
        address: a Ray cluster that is running, in place of this machine.

    Raises:
        ExtractionError: the processes, or Ray, could not start or finish.
    """
    if ray or address is not None:
        from training.extraction.ray_pool import run_on_ray

        return run_on_ray(jobs, setup, workers=max(workers, 1), address=address, gpus=gpus)
    if not workers:
        return map(Worker(setup).work, jobs)
    return _run_processes(jobs, setup, min(workers, len(jobs)), gpus)


def _run_processes(jobs: list[Job], setup: Setup, workers: int, gpus: float) -> Iterator[Outcome]:
    """Do jobs by processes, again and alone where a worker ended early.

    A file may crash what decodes it, and several workers may lack the memory that one has.
    """
    deaths = 0
    while jobs:
        undone = dict.fromkeys(jobs)
        for job, outcome in _in_pool(jobs, setup, min(workers, len(jobs)), gpus):
            deaths = 0
            del undone[job]
            yield outcome
        jobs = list(undone)
        # The pool begins jobs in their order, so the one that broke it is among the first.
        alone, jobs = jobs[:workers], jobs[workers:]
        for job in alone:
            found = dict(_in_pool([job], setup, 1, gpus)).get(job)
            deaths = 0 if found else deaths + 1
            if deaths > MOST_DEATHS:
                raise ExtractionError(
                    "workers end early, perhaps for lack of memory; what was made is kept: run the "
                    "same again with fewer --workers"
                )
            yield found or Outcome(failures=(died(job),))


def _in_pool(
    jobs: list[Job], setup: Setup, workers: int, gpus: float
) -> Iterator[tuple[Job, Outcome]]:
    """Yield jobs and what became of them, until all are done or a worker ends early."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(setup, context.Value("i", 0), gpus),
    )
    try:
        futures = {pool.submit(_work, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        return
    except BaseException:
        # Ctrl-C, or an error: nobody waits for the videos that are being encoded.
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


# Of this process, if it is a worker.
_worker: Worker | None = None


def _start_worker(setup: Setup, started: Synchronized[int], gpus: float) -> None:
    global _worker  # noqa: PLW0603
    # Ctrl-C is for the process that started this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with started.get_lock():
        index, started.value = started.value, started.value + 1
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu_of(
            index, gpus, os.environ.get("CUDA_VISIBLE_DEVICES")
        )
    _worker = Worker(setup)


def workers_on(count: int, gpus: float) -> int:
    """Return how many workers of so many GPUs each, or a fraction of one, `count` GPUs take."""
    return count * int(1 / gpus) if gpus <= 1 else int(count / gpus)


def gpu_of(index: int, gpus: float, visible: str | None) -> str:
    """Return the GPU of a worker as CUDA_VISIBLE_DEVICES names it.

    Args:
        index: of the worker, from 0.
        gpus: GPUs of each worker; a fraction shares one.
        visible: GPUs that are there for all of them, as that variable names them; None for all.
    """
    place = index // int(1 / gpus) if gpus <= 1 else int(index * gpus)
    names = visible.split(",") if visible else []
    return names[place].strip() if place < len(names) else str(place)


def _work(job: Job) -> Outcome:
    assert _worker is not None
    return _worker.work(job)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
