"""The service on Ray Serve: one application, and replicas that encode and that answer.

The application keeps the jobs and is one replica. Replicas keep nothing but what they have loaded:
one that dies is started again, and what it worked on is given to another one. All of them reach
videos, models, the library and the cache of encodings by the same paths.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.exceptions
from fastapi import FastAPI
from pydantic import TypeAdapter
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException

from r2rt.archive.ray_workers import running_ray
from r2rt.engines import Device, Precision
from r2rt.errors import BackendUnavailableError, R2rtError, ServiceStateError
from r2rt.retry import TransientError
from r2rt.service.app import create_app
from r2rt.service.computing import Computing, NotEncodedError
from r2rt.service.models import give_back_memory
from r2rt.service.problems import ProblemError
from r2rt.service.settings import Settings

if TYPE_CHECKING:
    from r2rt.archive.result import SearchResult
    from r2rt.grounding.prediction import Prediction
    from r2rt.progress import Update
    from r2rt.selection.highlights import HighlightLength

__all__ = ["application", "run"]

_TRIES = 4  # of an answer whose replica dies
_TIDY_S = 10.0
_STREAMS = 1000  # requests that are open at the same time; streams of events stay so
_NAME = "r2rt"


class _Replica:
    """Computes in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        self._computing = Computing(dataclasses.replace(settings, encoders=1))
        threading.Thread(target=self._tidy, name="r2rt-tidy", daemon=True).start()

    def _tidy(self) -> None:
        while not threading.Event().wait(_TIDY_S):
            if self._computing.unload_idle():
                give_back_memory()


class Encoder(_Replica):
    """Encodes one video at a time, and says how far it is."""

    async def encode(self, path: Path, model: str | None) -> AsyncIterator[Any]:
        """Yield (done, total), and last the result or an error in a list."""
        async for item in _reported(lambda u: self._computing.encode(path, model, u)):
            yield item

    async def index(self, path: Path) -> AsyncIterator[Any]:
        """Yield as `encode` does."""
        async for item in _reported(lambda u: self._computing.index(path, u)):
            yield item


class Answerer(_Replica):
    """Answers about encoded videos."""

    async def ask(self, method: str, arguments: Sequence[Any]) -> Any:
        """Return what a method of `Computing` returns, or an error in a list."""
        return await asyncio.to_thread(_outcome, getattr(self._computing, method), *arguments)


class _Remote(Computing):
    """Lets replicas compute. Live watches alone run in the application's own process."""

    def __init__(self, settings: Settings, encoders: Any, answerers: Any) -> None:
        super().__init__(settings)
        self.answering = settings.answerers
        self._encoders = encoders.options(stream=True)
        self._answerers = answerers

    def check(self) -> None:
        self._ask("check")

    def encode(self, path: Path, model: str | None, update: Update) -> tuple[int, float]:
        clips, seconds = self._follow(self._encoders.encode.remote(path, model), update)
        return clips, seconds

    def answer(self, path: Path, model: str | None, queries: Sequence[str]) -> list[Prediction]:
        answers: list[Prediction] = self._ask("answer", path, model, list(queries))
        return answers

    def highlights(
        self, path: Path, model: str | None, query: str | None, top: int, length: HighlightLength
    ) -> Prediction:
        answer: Prediction = self._ask("highlights", path, model, query, top, length)
        return answer

    def summarize(
        self, path: Path, model: str | None, query: str | None, length: str
    ) -> Prediction:
        answer: Prediction = self._ask("summarize", path, model, query, length)
        return answer

    def search(self, text: str, top: int, where: str | None) -> SearchResult:
        found: SearchResult = self._ask("search", text, top, where)
        return found

    def index(self, path: Path, update: Update) -> str | None:
        reason: str | None = self._follow(self._encoders.index.remote(path), update)
        return reason

    def _ask(self, method: str, *arguments: Any) -> Any:
        for attempt in range(_TRIES):
            try:
                outcome = self._answerers.ask.remote(method, arguments).result()
            except ray.exceptions.RayTaskError:
                raise
            except (ray.exceptions.RayError, RayServeException) as error:
                if attempt == _TRIES - 1:
                    raise TransientError(f"no replica answers ({type(error).__name__})") from error
            else:
                return _value(outcome)
        raise AssertionError

    def _follow(self, stream: Any, update: Update) -> Any:
        """Return the result of a stream; an update that raises ends the work."""
        try:
            for item in stream:
                if isinstance(item, tuple):
                    update(*item)
                else:
                    return _value(item)
        except ray.exceptions.RayTaskError:
            raise
        except (ray.exceptions.RayError, RayServeException) as error:
            raise TransientError(f"the replica ended ({type(error).__name__})") from error
        finally:
            stream.cancel()
        raise TransientError("the replica ended")


class Service:
    """The application."""

    def __init__(self, settings: Settings, encoders: Any, answerers: Any) -> None:
        self._settings = settings
        self._remote = (encoders, answerers)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._settings, _Remote(self._settings, *self._remote))


def application(settings: dict[str, Any]) -> Any:
    """Return the application of a config file for `serve deploy`.

    Requests need a token unless `host` says that only this machine can reach the proxies.

    Args:
        settings: the fields of `r2rt.service.settings.Settings`; `folder` must be given.

    Raises:
        ValueError: there is no such field, or it has another type.
    """
    known = {field.name for field in dataclasses.fields(Settings)}
    if unknown := settings.keys() - known:
        raise ValueError(f"{', '.join(sorted(unknown))}: no such setting; expected {sorted(known)}")
    adapter = TypeAdapter(Settings)
    adapter.rebuild(_types_namespace={"Device": Device, "Precision": Precision, "Path": Path})
    return _application(adapter.validate_python({"host": "0.0.0.0"} | settings))


def run(settings: Settings, address: str, *, on_ready: Callable[[str], object]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: how the service is set up.
        address: of a Ray cluster, or `local`.
        on_ready: called with a line that says where it is served.

    Raises:
        BackendUnavailableError: Ray or the application did not start.
        ServiceStateError: Serve runs there already, at another address.
    """
    ended = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: ended.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    # Ray's workers would run at niceness 15, as batch jobs do; and on a busy machine the proxy
    # needs longer than five seconds to begin.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        with running_ray(address, settings.encoders + settings.answerers + 1):
            for number in before:  # Ray has set its own
                signal.signal(number, lambda *_: ended.set())
            _serve(settings, ended, on_ready, alone=address == "local")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve(
    settings: Settings,
    ended: threading.Event,
    on_ready: Callable[[str], object],
    *,
    alone: bool,
) -> None:
    """Serve on the Ray that runs; `alone` says that nothing else is served there."""
    port = settings.port or _free_port(settings.host)
    try:
        serve.start(
            http_options={"host": settings.host, "port": port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        _check_address(settings.host, port)
        serve.run(_application(settings), name=_NAME)
        on_ready(f"serving at http://{settings.host}:{port}/ on Ray; Ctrl-C ends")
        ended.wait()
        serve.delete(_NAME)
    except R2rtError:  # some are RuntimeErrors as well
        raise
    except (ray.exceptions.RayError, RayServeException, RuntimeError) as error:
        raise BackendUnavailableError(
            f"Ray Serve did not start ({str(error)[:200]}); its log is in /tmp/ray"
        ) from error
    finally:
        if alone:
            serve.shutdown()  # type: ignore[no-untyped-call]


def _check_address(host: str, port: int) -> None:
    """Raise `ServiceStateError` if Serve listens elsewhere than it was asked to.

    One that runs already keeps its address, which strangers may reach: who needs a token goes by
    what was asked.
    """
    # No public function says it. Ray's own dashboard reads it so.
    client = _get_global_client()
    assert client is not None  # it raises where there is none
    running = client.http_config
    if (running.host, running.port) != (host, port):
        raise ServiceStateError(
            f"Ray Serve runs already, at {running.host}:{running.port} and not at {host}:{port}; "
            f"give --host {running.host} --port {running.port}, or end it with serve shutdown"
        )


def _application(settings: Settings) -> Any:
    # A replica that is replaced may still use the folder for a moment.
    workers = max(settings.workers, settings.encoders + 1)
    settings = dataclasses.replace(settings, workers=workers, lock_wait_s=30.0)
    deployment: Any = serve.deployment
    encoders = deployment(Encoder, num_replicas=settings.encoders, max_ongoing_requests=1)
    answerers = deployment(Answerer, num_replicas=settings.answerers, max_ongoing_requests=2)
    service = deployment(
        serve.ingress()(Service),
        num_replicas=1,
        max_ongoing_requests=_STREAMS,
        graceful_shutdown_timeout_s=10,
        ray_actor_options={"num_cpus": 0},
    )
    return service.bind(settings, encoders.bind(settings), answerers.bind(settings))


def _free_port(host: str) -> int:
    with socket.socket() as listener:
        listener.bind((host, 0))
        port: int = listener.getsockname()[1]
        return port


async def _reported(work: Callable[[Update], Any]) -> AsyncIterator[Any]:
    """Do work in a thread; yield its updates as tuples, and last its outcome in a list."""
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[Any] = asyncio.Queue()
    left = threading.Event()

    def update(done: int, total: int) -> None:
        if left.is_set():
            raise _LeftError
        loop.call_soon_threadsafe(items.put_nowait, (done, total))

    thread = asyncio.create_task(asyncio.to_thread(_outcome, work, update))
    thread.add_done_callback(lambda _: items.put_nowait(None))
    try:
        while (item := await items.get()) is not None:
            yield item
        yield await thread  # raises a fault, which Ray reports
    finally:
        left.set()
        await asyncio.shield(asyncio.gather(thread, return_exceptions=True))


class _LeftError(BaseException):
    """Nobody waits for the result any more."""


def _outcome(work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return [result, error]: Ray would wrap an error that is raised."""
    try:
        return [work(*arguments), None]
    except (R2rtError, ProblemError, NotEncodedError, TransientError, _LeftError) as error:
        return [None, error]


def _value(outcome: list[Any]) -> Any:
    result, error = outcome
    if error is not None:
        raise error
    return result
