"""Videos encoded by Ray, on this machine or a cluster, for one process that commits their rows.

Workers are actors of Ray's core: each loads the model once and does one video at a time. (Ray Data
moves tables between stages; here there is one stage, and its results stay where they are.) A worker
writes clips and tokens as Lance fragments into the library itself, and returns what they are
called: they exist for readers when the first process commits them, as `Writer.flush` does. A worker
that dies is started again and its video tried again; what it left belongs to no version of a table
and goes with old versions.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from r2rt.archive.piece import Keep, Piece, failed_piece, make_piece
from r2rt.archive.scan import File
from r2rt.archive.settings import Settings
from r2rt.archive.tables import Tables, require_package
from r2rt.errors import BackendUnavailableError, R2rtError
from r2rt.grounding.many import attempt
from r2rt.portable import handler_kept
from r2rt.video.remote import is_remote

if TYPE_CHECKING:
    import pyarrow as pa

    from r2rt.video import Sampling

__all__ = ["RayOptions", "encode_on_ray", "running_ray"]

_TRIES = 5  # of a video whose worker dies
_OBJECT_STORE_BYTES = 96 << 20  # what comes back is small; Ray would take a third of the memory


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where Ray runs.

    Attributes:
        address: of a cluster, or `local` for this machine alone.
        workers: processes that encode.
        model: name or folder of the model's very form, the same on all machines.
        device: what it runs on.
    """

    address: str
    workers: int
    model: str
    device: str


class _Worker:
    """Encodes videos in a process of its own."""

    def __init__(self, options: RayOptions, root: str, settings: bytes) -> None:
        from r2rt.grounding.grounder import Grounder

        self._grounder = Grounder.load(
            options.model,
            device=options.device,  # type: ignore[arg-type]
            precision=None,
        )
        self._root = root
        self._settings = msgspec.json.decode(settings, type=Settings)
        self._settings.check_model(self._grounder.bundle, root)

    def work(
        self,
        file: File,
        content: str,
        keep: Keep,
        sampling: Sampling,
        tags: tuple[str, ...],
        speech: str | None,
    ) -> Piece:
        """Return the rows of a video, whose clips and tokens lie in fragments."""
        made = attempt(
            file.path,
            lambda _: make_piece(
                self._grounder,
                self._settings,
                file,
                content,
                keep=keep,
                sampling=sampling,
                tags=tags,
                speech=speech,
            ),
        )
        if isinstance(made, R2rtError):
            return failed_piece(file, content, made, tags=tags)
        tables = Tables.open(self._root)
        return Piece(
            row=made.row,
            lines=made.lines,
            clip_fragments=_write(tables.clips.uri, made.clips),
            token_fragments=_write(tables.tokens.uri, made.tokens),
        )


def encode_on_ray(
    options: RayOptions,
    tables: Tables,
    jobs: Iterator[tuple[File, str]],
    *,
    keep: Keep,
    sampling: Sampling,
    tags: tuple[str, ...],
    speech: str | None,
) -> Iterator[Piece]:
    """Yield the rows of videos, in the order in which they are done.

    Args:
        options: where Ray runs.
        tables: the library; workers reach it by the same path or address.
        jobs: files and their contents; the next one is taken when a worker is free.
        keep: what to keep of a video.
        sampling: how frames are chosen.
        tags: given to the videos.
        speech: what transcribes them, see `IndexOptions`.

    Raises:
        MissingExtraError: Ray is not installed.
        BackendUnavailableError: Ray did not start, or ended early.
    """
    with running_ray(options.address, options.workers) as ray:
        try:
            settings = msgspec.json.encode(tables.settings)
            remote = ray.remote(max_restarts=-1, max_task_retries=_TRIES)(_Worker)
            root = tables.root if is_remote(tables.root) else str(Path(tables.root).absolute())
            idle = [remote.remote(options, root, settings) for _ in range(options.workers)]
            busy: dict[Any, Any] = {}
            while True:
                while idle and (job := next(jobs, None)) is not None:
                    worker = idle.pop()
                    busy[worker.work.remote(*job, keep, sampling, tags, speech)] = worker
                if not busy:
                    return
                (done,), _ = ray.wait(list(busy), num_returns=1)
                idle.append(busy.pop(done))
                yield ray.get(done)
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise BackendUnavailableError(
                f"Ray ended early ({_last_line(error)}); committed videos stay; run it again"
            ) from error


@contextlib.contextmanager
def running_ray(address: str, cpus: int) -> Iterator[Any]:
    """Connect to Ray, give its module, and leave it and its signal handlers at the end.

    Args:
        address: of a cluster, or `local` to start Ray on this machine.
        cpus: how many processors a local Ray counts with.

    Raises:
        MissingExtraError: Ray is not installed.
        BackendUnavailableError: Ray did not start.
    """
    # Before the import, which reads them: no reports to Ray's makers, no chatter on stderr.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # On a busy machine its parts need longer to find each other.
    os.environ.setdefault("RAY_agent_register_timeout_ms", "180000")
    require_package("ray", "--ray")
    # Ray starts its own programs by a fork that executes them at once; no table is touched between.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    import ray
    import ray.exceptions

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        local = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        quiet |= {"num_cpus": cpus, **local}
    with handler_kept(signal.SIGTERM):  # Ray sets one of its own
        try:
            try:
                ray.init(address=address, **quiet)
            except Exception as error:  # Ray raises bare Exceptions here
                raise BackendUnavailableError(
                    f"Ray did not start ({_last_line(error)}); correct --ray, or free the machine"
                ) from error
            yield ray
        finally:
            ray.shutdown()


def _write(uri: str, rows: pa.Table | None) -> tuple[str, ...]:
    """Write rows as fragments of a table that no version has yet, and return their descriptions."""
    if rows is None:
        return ()
    from lance.fragment import write_fragments

    return tuple(
        msgspec.json.encode(item.to_json()).decode() for item in write_fragments(rows, uri)
    )


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else type(error).__name__
