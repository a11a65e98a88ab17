"""One engine for many threads: the calls of an engine that is not thread-safe take turns."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from r2rt.engines.base import Array, Engine, PipelinedEngine, Placed
from r2rt.errors import QueryError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["for_threads"]


def for_threads(engine: Engine) -> Engine:
    """Return an engine that threads may share: itself if it is concurrent, else one with a lock."""
    if engine.concurrent:
        return engine
    if isinstance(engine, PipelinedEngine):
        return _ExclusivePipeline(engine)
    return _Exclusive(engine)


class _Exclusive:
    """Holds a lock during each call; see `Engine`."""

    concurrent = True

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.RLock()
        self._closed = False

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def frame_batch(self) -> int:
        return self._engine.frame_batch

    @property
    def kept_bytes(self) -> int:
        with self._lock:
            return self._engine.kept_bytes

    @property
    def merges(self) -> bool:
        return self._engine.merges

    def run(
        self,
        graph: str,
        inputs: Mapping[str, Placed],
        outputs: Mapping[str, Placed] | None = None,
    ) -> dict[str, Array]:
        with self._lock:
            self._check_open()
            return self._engine.run(graph, inputs, outputs)

    def empty(self, shape: Sequence[int]) -> Placed:
        with self._lock:
            self._check_open()
            return self._engine.empty(shape)

    def release(self, graph: str) -> None:
        with self._lock:
            if not self._closed:
                self._engine.release(graph)

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._engine.close()

    def _check_open(self) -> None:
        if self._closed:
            raise QueryError("the engine is closed; load the model again")


class _ExclusivePipeline(_Exclusive):
    """Batches of several threads may follow one another; `finish` then waits for all of them."""

    def __init__(self, engine: PipelinedEngine) -> None:
        super().__init__(engine)
        self._pipeline = engine

    def submit(self, frames: NDArray[np.uint8], outputs: Mapping[str, NDArray[np.float32]]) -> None:
        with self._lock:
            self._check_open()
            self._pipeline.submit(frames, outputs)

    def finish(self) -> None:
        with self._lock:
            self._check_open()
            self._pipeline.finish()
