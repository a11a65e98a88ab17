"""The jobs as a Ray Data pipeline: the same on one machine and on a cluster.

A job's row goes to one of a pool of workers, each with the model loaded once, which writes the
files itself; what comes back is what went wrong. So nothing large moves through Ray, a worker that
dies is replaced and its rows are tried again, and a run that is killed goes on where it stopped:
files are whole or absent, and those that are there are not made again.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec

from r2rt.errors import R2rtError
from training.extraction.encoders import Encoder, Settings, make_encoder
from training.extraction.errors import ExtractionError
from training.extraction.jobs import Job
from training.extraction.store import FeatureManifest, FeatureStore

__all__ = ["Outcome", "Worker", "run_jobs"]

_CHECKOUT = Path(__file__).resolve().parents[2]
# Rows and what comes back are small; Ray would take a third of the memory by itself.
_OBJECT_STORE_BYTES = 96 << 20
# Ray hands out blocks of rows; more of them are more even and cost more.
_MOST_BLOCKS = 1000
_STARTS = 3


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one job.

    Attributes:
        made: files that were written.
        kept: files that were there.
        failures: a line for each that could not be made.
    """

    made: int = 0
    kept: int = 0
    failures: tuple[str, ...] = ()


class Worker:
    """Does jobs with a model of its own; Ray starts some of these in processes of their own."""

    def __init__(self, settings: bytes, manifest: bytes, folder: str) -> None:
        self._settings = msgspec.json.decode(settings, type=Settings)
        described = msgspec.json.decode(manifest, type=FeatureManifest)
        self._store = FeatureStore(Path(folder), described)
        self._encoder: Encoder | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do the job of a row, `job`, and return its `outcome`, both JSON."""
        outcome = self.work(msgspec.json.decode(row["job"], type=Job))
        return {"outcome": msgspec.json.encode(outcome)}

    def work(self, job: Job) -> Outcome:
        """Make what is missing of a job."""
        if job.vid is not None:
            path = self._store.video_path(job.vid)
            source, vid, fps = Path(job.path), job.vid, Fraction(job.fps)
            return self._make(vid, path, lambda e: e.video(source, vid, fps, path))
        made = kept = 0
        failures: list[str] = []
        for qid, text in job.queries:
            path = self._store.query_path(qid)

            def encode(encoder: Encoder, text: str = text, path: Path = path) -> None:
                encoder.query(text, path)

            one = self._make(f"query {qid}", path, encode)
            made, kept = made + one.made, kept + one.kept
            failures.extend(one.failures)
        return Outcome(made=made, kept=kept, failures=tuple(failures))

    def _make(self, name: str, path: Path, encode: Callable[[Encoder], None]) -> Outcome:
        if path.is_file():
            return Outcome(kept=1)
        # Outside the `try`: a model that cannot be loaded is no fault of this video.
        encoder = self._loaded()
        try:
            encode(encoder)
        except R2rtError as error:
            return Outcome(failures=(f"{name}: {error}",))
        except Exception as error:  # one bad file must not end the others
            return Outcome(failures=(f"{name}: {type(error).__name__}: {error}",))
        return Outcome(made=1)

    def _loaded(self) -> Encoder:
        if self._encoder is None:
            self._encoder = make_encoder(self._settings)
        return self._encoder


def run_jobs(
    jobs: list[Job],
    settings: Settings,
    store: FeatureStore,
    folder: Path,
    *,
    workers: int,
    address: str | None = None,
    gpus: float = 0.0,
) -> Iterator[Outcome]:
    """Do jobs in parallel and yield what became of each, in any order.

    Args:
        jobs: what there is to make.
        settings: what it is made with.
        store: of the folder.
        folder: where features go; on a cluster, one that all machines share.
        workers: how many worker processes.
        address: a cluster that is running (`auto`, or its address); None starts Ray on this machine
            alone and ends it afterwards.
        gpus: GPUs of each worker; a fraction shares one.

    Raises:
        ExtractionError: Ray is not installed, or could not start or finish.
    """
    ray = _import_ray()
    arguments = (
        msgspec.json.encode(settings),
        msgspec.json.encode(store.manifest),
        str(folder.resolve()),
    )
    try:
        _start(ray, workers * settings.threads, workers * gpus, address)
        rows = [{"job": msgspec.json.encode(job)} for job in jobs]
        outcomes = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map(
            Worker,
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
            num_cpus=settings.threads,
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
