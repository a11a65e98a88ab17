"""Jobs by Ray's actors: the same on one machine and on a cluster.

Each worker does one job at a time; nothing large moves through Ray. A worker that dies is started
again and its job tried again, a few times.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r2rt.errors import R2rtError
from r2rt.portable import handler_kept
from training.extraction.errors import ExtractionError
from training.extraction.jobs import Job
from training.extraction.worker import MOST_DEATHS, Outcome, Setup, Worker, died

__all__ = ["run_on_ray"]

_CHECKOUT = Path(__file__).resolve().parents[2]
# Jobs and what comes back are small; Ray would take a third of the memory by itself.
_OBJECT_STORE_BYTES = 96 << 20
_STARTS = 3
# How often a job is tried again whose worker died.
_RETRIES = 4


def run_on_ray(
    jobs: list[Job], setup: Setup, *, workers: int, address: str | None, gpus: float
) -> Iterator[Outcome]:
    """Do jobs by Ray and yield what became of each, in any order.

    Args:
        jobs: what there is to make.
        setup: what it is made with, and where it goes; on a cluster, a folder that all share.
        workers: how many worker processes.
        address: a cluster that is running (`auto`, or its address); None starts Ray on this machine
            alone and ends it afterwards.
        gpus: GPUs of each worker; a fraction shares one.

    Raises:
        ExtractionError: Ray is not installed, or could not start or finish.
    """
    ray = _import_ray()
    threads = setup.settings.threads
    try:
        _start(ray, workers * threads, workers * gpus, address)
        actor = ray.remote(
            num_cpus=threads, num_gpus=gpus, max_restarts=-1, max_task_retries=_RETRIES
        )(Worker)
        deaths, waiting = 0, iter(jobs)
        busy: dict[Any, tuple[Any, Job]] = {}
        for job in itertools.islice(waiting, workers):
            worker = actor.remote(setup)
            busy[worker.work.remote(job)] = worker, job
        while busy:
            (done,), _ = ray.wait(list(busy), num_returns=1)
            worker, job = busy.pop(done)
            try:
                outcome, deaths = ray.get(done), 0
            except ray.exceptions.RayActorError:
                deaths += 1
                if deaths > MOST_DEATHS:
                    raise
                outcome = Outcome(failures=(died(job),))
            following = next(waiting, None)
            if following is None:
                # A worker that found no room yet gets this one's.
                ray.kill(worker)
            else:
                busy[worker.work.remote(following)] = worker, following
            yield outcome
    except (ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
        if isinstance(error, R2rtError):
            raise
        raise ExtractionError(
            f"Ray ended early ({_last_line(error)}); what was made is kept: run the same again"
        ) from error
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    # Before the import, which reads them: no reports to Ray's makers, no chatter on stderr.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # On a busy machine its parts need longer to find each other.
    os.environ.setdefault("RAY_agent_register_timeout_ms", "180000")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ExtractionError(
            f"Ray is not installed ({error}); pip install ray (or r2rt[train])"
        ) from error
    return ray


@handler_kept(signal.SIGTERM)  # Ray sets one of its own
def _start(ray: Any, cpus: int, gpus: float, address: str | None) -> None:
    """Start Ray on this machine, or join a cluster.

    Raises:
        ExtractionError: it did not start.
    """
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    for attempt in range(1, _STARTS + 1):
        try:
            if address is not None:
                environment = {"env_vars": {"PYTHONPATH": str(_CHECKOUT)}}
                ray.init(address=address, runtime_env=environment, **quiet)
            else:
                with _importable():
                    ray.init(
                        num_cpus=cpus,
                        num_gpus=gpus or None,
                        include_dashboard=False,
                        object_store_memory=_OBJECT_STORE_BYTES,
                        **quiet,
                    )
        except Exception as error:  # Ray raises bare Exceptions here
            ray.shutdown()
            # On a machine that is busy with other things Ray gives up on its own parts too early.
            if attempt == _STARTS or address is not None:
                raise ExtractionError(
                    f"Ray did not start: {_last_line(error)}; free the machine or its memory, or "
                    "correct --address, and run the same again"
                ) from error
        else:
            break


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Let the processes that are started import this checkout, wherever they start."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_CHECKOUT), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _last_line(error: BaseException) -> str:
    """The cause at the end of what Ray says over many lines."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
