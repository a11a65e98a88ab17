"""Jobs as a Ray Data pipeline: the same on one machine and on a cluster.

A job's row goes to one of a pool of workers; nothing large moves through Ray. A worker that dies is
replaced, and its rows are tried again.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from r2rt.errors import R2rtError
from training.extraction.errors import ExtractionError
from training.extraction.jobs import Job
from training.extraction.worker import Outcome, Setup, Worker

__all__ = ["run_on_ray"]

_CHECKOUT = Path(__file__).resolve().parents[2]
# Rows and what comes back are small; Ray would take a third of the memory by itself.
_OBJECT_STORE_BYTES = 96 << 20
# Ray hands out blocks of rows; more of them are more even and cost more.
_MOST_BLOCKS = 1000
_STARTS = 3


class _RowWorker:
    """A `Worker` that takes and returns rows of JSON."""

    def __init__(self, setup: bytes) -> None:
        self._worker = Worker(msgspec.json.decode(setup, type=Setup))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        outcome = self._worker.work(msgspec.json.decode(row["job"], type=Job))
        return {"outcome": msgspec.json.encode(outcome)}


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
        rows = [{"job": msgspec.json.encode(job)} for job in jobs]
        outcomes = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map(
            _RowWorker,
            fn_constructor_args=(msgspec.json.encode(setup),),
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
            num_cpus=threads,
            num_gpus=gpus or None,
        )
        for row in outcomes.iter_rows():
            yield msgspec.json.decode(row["outcome"], type=Outcome)
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
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise ExtractionError(
            f"Ray is not installed ({error}); pip install 'ray[data]' (or r2rt[train])"
        ) from error
    return ray


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
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


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
