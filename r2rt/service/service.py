"""A service: one of each of its parts, opened and closed together."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from r2rt.errors import ServiceStateError
from r2rt.files import remove_orphans
from r2rt.portable import usable_cores
from r2rt.service.annotations import Annotations
from r2rt.service.answers import Answerer, Asked
from r2rt.service.computing import Computing
from r2rt.service.database import Database
from r2rt.service.guard import Limiter
from r2rt.service.hub import Hub
from r2rt.service.jobs.runner import Progress, Runner
from r2rt.service.jobs.store import Job, JobKind, JobStore
from r2rt.service.jobs.work import do_job
from r2rt.service.media import Media
from r2rt.service.metrics import Metrics
from r2rt.service.models import give_back_memory
from r2rt.service.settings import Settings, is_loopback
from r2rt.service.tokens import Tokens
from r2rt.service.tracing import span
from r2rt.service.uploads import Uploads
from r2rt.service.videos import Video, Videos
from r2rt.service.watches import Watches

if TYPE_CHECKING:
    from r2rt.grounding.prediction import Prediction

__all__ = ["Service"]

_log = logging.getLogger(__name__)
_TIDY_S = 10.0


class Service:
    """Everything that requests share.

    Args:
        settings: how it is set up.
        computing: what computes, see `Computing`; this process if None.

    Raises:
        ServiceStateError: the folder cannot be used, or another service uses it.
    """

    def __init__(self, settings: Settings, computing: Computing | None = None) -> None:
        self.settings = settings
        folder = settings.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as error:
            raise ServiceStateError(
                f"{folder}: cannot be written ({error.strerror}); give another one with --state"
            ) from error
        self._lock = filelock.FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=settings.lock_wait_s)
        except filelock.Timeout:
            raise ServiceStateError(
                f"{folder}: another r2rt serve uses it; stop that one or give another --state"
            ) from None
        self.database = Database(folder / "service.db")
        self.results = folder / "results"
        remove_orphans(self.results)  # of a service that was killed
        self.hub = Hub()
        self.metrics = Metrics(self)
        roots = [root.resolve() for root in settings.roots]
        self.videos = Videos(self.database, folder / "videos", roots)
        self.computing = computing or Computing(settings)
        self.models = self.computing.models
        self.media = Media(folder / "media", usable_cores())
        self.annotations = Annotations(self.database)
        self.watches = Watches(self.database, self.hub, self.models, self.videos, settings)
        self.tokens = Tokens(self.database)
        self.uploads = Uploads(self.database, folder / "uploads", self.videos, settings)
        self.jobs = JobStore(self.database)
        self.runner = Runner(
            self.jobs,
            self.hub,
            self._do_job,
            workers=settings.workers,
            max_attempts=settings.max_attempts,
        )
        self.answerer = Answerer(
            self._answer,
            wait_s=settings.batch_wait_s,
            most=settings.batch_most,
            together=self.computing.answering,
            observe=self.metrics.batch,
        )
        self._encoding = threading.Lock()
        self._tries = Limiter(rate=1 / 60, burst=10)
        self._tidying: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to work, in the running event loop."""
        self.hub.open()
        self.answerer.start()
        self.videos.recover()
        self.runner.start()
        self.watches.start()
        self._tidying = asyncio.create_task(self._tidy(), name="r2rt-tidy")

    async def close(self) -> None:
        """Hand back the jobs that run, and close everything."""
        self.hub.close()
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.gather(self._tidying, return_exceptions=True)
        await asyncio.to_thread(self.watches.close)
        await asyncio.to_thread(self.runner.close)
        await self.answerer.close()
        await asyncio.to_thread(self.media.close)  # it waits for threads that may ask this one
        self.computing.close()
        self.release()

    def release(self) -> None:
        """Let another service use the folder."""
        self.database.close()
        self._lock.release()

    @property
    def needs_token(self) -> bool:
        """Whether requests need a token: always beyond this machine, and where there is one."""
        return not is_loopback(self.settings.host) or self.tokens.any()

    def may_try(self, address: str) -> bool:
        """Return whether an address may try another wrong token, and count that it did."""
        return not self._tries.wait_s(address)

    def submit(
        self,
        kind: JobKind,
        request: dict[str, Any],
        *,
        owner: str,
        video: str | None = None,
        key: str | None = None,
    ) -> tuple[Job, bool]:
        """Add a job, and return it and whether it is new.

        Raises:
            ProblemError: see `JobStore.add`.
        """
        most = self.settings.max_waiting
        job, new = self.jobs.add(kind, request, video=video, owner=owner, key=key, most=most)
        if new:
            self.runner.submitted()
        return job, new

    def encode_soon(
        self, video: Video, *, owner: str, model: str | None = None, encode: bool = True
    ) -> Job:
        """Return the job that encodes a video: the one that waits or runs, or a new one.

        Args:
            video: the video; it is fetched first if it is to be.
            owner: who asks.
            model: name of the model; None for the default one.
            encode: whether it is encoded; else it is only fetched.
        """
        request = {"kind": "encode", "video": video.id, "model": model, "encode": encode}
        with self._encoding:  # of requests that come together only one adds a job
            for job in self.jobs.active("encode", video.id):
                if job.request == request:
                    return job
            return self.submit("encode", request, owner=owner, video=video.id)[0]

    def fetch(self, video: Video, progress: Progress) -> None:
        """Download a video that was added by its address, or that the library has at one.

        Raises:
            ProblemError: the address may not be fetched from, or does not answer as it should.
        """
        from r2rt.service.fetching import fetch, fetch_indexed

        assert video.url is not None
        # Whoever made the library chose its addresses; all others come from clients.
        fetch_it = fetch_indexed if video.origin == "library" else fetch
        fetch_it(video.url, video.path, self.settings, progress)

    def add_url(self, url: str) -> Video:
        """Add a video by its address, which is fetched by the job that encodes it.

        Raises:
            ProblemError: it is no address that can be fetched.
        """
        from r2rt.service.fetching import checked_url

        return self.videos.add_url(*checked_url(url))

    def _answer(self, asked: Asked, queries: Sequence[str]) -> list[Prediction]:
        with span("answer", **{"r2rt.queries": len(queries)}):
            predictions = self.computing.answer(asked.path, asked.model, queries)
        self.metrics.stage("text", predictions[0].timings.text_s)
        self.metrics.stage("ground", predictions[0].timings.ground_s)
        return predictions

    def _do_job(self, job: Job, progress: Progress) -> Any:
        began = time.perf_counter()
        with span(f"job {job.kind}", **{"r2rt.job": job.id}):
            result = do_job(self, job, progress)
        self.metrics.stage(job.kind, time.perf_counter() - began)
        return result

    async def _tidy(self) -> None:
        """Unload idle models and forget what has expired, every few seconds."""
        while True:
            await asyncio.sleep(_TIDY_S)
            try:
                await asyncio.to_thread(self._tidy_once)
            except Exception:  # such as a full disk, on which tidying makes room later
                _log.exception("tidying failed; it is tried again in %g s", _TIDY_S)

    def _tidy_once(self) -> None:
        if self.computing.unload_idle():
            give_back_memory()
        before = time.time() - self.settings.results_expiry_s
        for id_ in self.jobs.expire(before):
            _remove(self.results / id_)
        self.watches.expire(before)
        self.uploads.expire()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
