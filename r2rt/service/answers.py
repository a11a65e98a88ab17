"""Answering queries: those that arrive together about one video are answered in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from r2rt.grounding.prediction import Prediction

__all__ = ["Answerer", "Asked", "Batch"]


@dataclass(frozen=True)
class Asked:
    """What decides an answer beside the query.

    Attributes:
        path: the video's file.
        model: name of the model; None for the default one.
    """

    path: Path
    model: str | None


class _Ask(Protocol):
    def __call__(self, asked: Asked, queries: Sequence[str]) -> list[Prediction]: ...


@dataclass
class Batch:
    """Queries that wait to be answered together."""

    queries: list[str] = field(default_factory=list)
    waiting: list[tuple[tuple[str, ...], asyncio.Future[list[Prediction]]]] = field(
        default_factory=list
    )


class Answerer:
    """Groups queries by what they are asked of, and answers one group at a time.

    A first query waits `wait_s` for others; while a group is answered, the next one gathers.

    Args:
        ask: answers in a thread; raises `NotEncodedError` for a video that is not encoded.
        wait_s: how long a first query waits.
        most: distinct queries in a group at most; 1 answers each request alone.
        together: groups answered at the same time, where several processes answer.
        observe: called with the number of requests of each group.
    """

    def __init__(
        self,
        ask: _Ask,
        *,
        wait_s: float,
        most: int,
        together: int = 1,
        observe: Callable[[int], None] | None = None,
    ) -> None:
        self._ask = ask
        self._wait_s = wait_s
        self._most = most
        self._observe = observe
        self._batches: dict[Asked, list[Batch]] = {}
        self._arrived = asyncio.Event()
        # One thread in one process: the engine uses all cores, and the thread keeps what it
        # computed of the video that it was asked about last.
        self._threads = ThreadPoolExecutor(together, thread_name_prefix="r2rt-answers")
        self._together = together
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> int:
        """How many requests wait for an answer."""
        return sum(len(item.waiting) for batches in self._batches.values() for item in batches)

    def start(self) -> None:
        """Answer from now on, in the running event loop."""
        for number in range(self._together):
            task = asyncio.create_task(self._run(), name=f"r2rt-answers-{number}")
            self._tasks.append(task)

    async def close(self) -> None:
        """Answer nothing more; requests that wait are cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for batches in self._batches.values():
            for batch in batches:
                for _, future in batch.waiting:
                    future.cancel()
        self._batches.clear()
        await asyncio.to_thread(self._threads.shutdown)

    async def ask(self, asked: Asked, queries: Sequence[str]) -> list[Prediction]:
        """Return one prediction a query, with all its moments.

        Raises:
            NotEncodedError: the video is not encoded by the model.
            R2rtError: see `Computing.answer`.
        """
        future: asyncio.Future[list[Prediction]] = asyncio.get_running_loop().create_future()
        batches = self._batches.setdefault(asked, [])
        fresh = list(dict.fromkeys(queries))
        last = batches[-1] if batches else None
        if last is not None:
            new = [query for query in fresh if query not in last.queries]
        if last is None or len(last.queries) + len(new) > self._most:
            last, new = Batch(), fresh
            batches.append(last)
        last.queries += new
        last.waiting.append((tuple(queries), future))
        self._arrived.set()
        return await future

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            if self._wait_s and self._most > 1:
                await asyncio.sleep(self._wait_s)
            self._arrived.clear()
            while self._batches:
                asked = next(iter(self._batches))
                batches = self._batches.pop(asked)
                batch = batches.pop(0)
                if batches:
                    self._batches[asked] = batches  # behind those of other videos
                await self._answer(asked, batch)

    async def _answer(self, asked: Asked, batch: Batch) -> None:
        waiting = [item for item in batch.waiting if not item[1].done()]  # some may have left
        if not waiting:
            return
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._threads, self._ask, asked, batch.queries)
        except Exception as error:
            if len(waiting) == 1:
                _fail(waiting[0][1], error)
                return
            # One bad query must not fail the others.
            for queries, future in waiting:
                await self._answer(asked, Batch(list(dict.fromkeys(queries)), [(queries, future)]))
            return
        if self._observe is not None:
            self._observe(len(waiting))
        found = dict(zip(batch.queries, answers, strict=True))
        for queries, future in waiting:
            if not future.done():
                future.set_result([found[query] for query in queries])


def _fail(future: asyncio.Future[list[Prediction]], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
