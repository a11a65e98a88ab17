"""Queries that arrive together are answered together, each as if alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from r2rt.errors import QueryError
from r2rt.service.answers import Answerer, Asked

ONE, OTHER = Asked(Path("one"), None), Asked(Path("other"), None)


class Model:
    """Answers with the query and the video, and remembers what was asked together."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, asked: Asked, queries: Sequence[str]) -> list[Any]:
        self.calls.append((asked.path.name, list(queries)))
        self.free.wait(10)
        if "bad" in queries:
            raise QueryError("bad")
        return [f"{asked.path.name}: {query}" for query in queries]


def run(test: Any, *, wait_s: float = 0.02, most: int = 4) -> Model:
    model = Model()

    async def main() -> None:
        answerer: Any = Answerer(model, wait_s=wait_s, most=most)
        answerer.start()
        try:
            await test(answerer, model)
        finally:
            await answerer.close()

    asyncio.run(main())
    return model


def test_requests_about_one_video_are_one_call() -> None:
    async def test(answerer: Any, _: Model) -> None:
        asks = [answerer.ask(ONE, ["a", "b"]), answerer.ask(ONE, ["b"]), answerer.ask(OTHER, ["a"])]
        assert await asyncio.gather(*asks) == [
            ["one: a", "one: b"],
            ["one: b"],
            ["other: a"],
        ]

    assert run(test).calls == [("one", ["a", "b"]), ("other", ["a"])]


def test_a_call_has_no_more_queries_than_it_may() -> None:
    async def test(answerer: Any, _: Model) -> None:
        asks = [answerer.ask(ONE, [str(number), str(number + 1)]) for number in range(0, 12, 2)]
        answers = await asyncio.gather(*asks)
        assert [answer[0] for answer in answers] == [f"one: {n}" for n in range(0, 12, 2)]

    assert [len(queries) for _, queries in run(test).calls] == [4, 4, 4]


def test_what_comes_while_one_call_runs_goes_into_the_next() -> None:
    async def test(answerer: Any, model: Model) -> None:
        model.free.clear()
        first = asyncio.create_task(answerer.ask(ONE, ["first"]))
        while not model.calls:
            await asyncio.sleep(0.001)
        rest = [asyncio.create_task(answerer.ask(ONE, [name])) for name in "abc"]
        await asyncio.sleep(0)
        model.free.set()
        await asyncio.gather(first, *rest)

    assert run(test, wait_s=0).calls == [("one", ["first"]), ("one", ["a", "b", "c"])]


def test_a_bad_query_fails_alone() -> None:
    async def test(answerer: Any, _: Model) -> None:
        asks = [answerer.ask(ONE, [query]) for query in ("a", "bad", "b")]
        first, bad, last = await asyncio.gather(*asks, return_exceptions=True)
        assert (first, last) == (["one: a"], ["one: b"])
        assert isinstance(bad, QueryError)

    run(test)


def test_who_left_is_not_answered_and_holds_up_nobody() -> None:
    async def test(answerer: Any, _: Model) -> None:
        gone = asyncio.create_task(answerer.ask(ONE, ["gone"]))
        stays = asyncio.create_task(answerer.ask(ONE, ["stays"]))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == ["one: stays"]
        assert answerer.waiting == 0

    run(test)


def test_closing_cancels_who_waits() -> None:
    async def test(answerer: Any, model: Model) -> None:
        model.free.clear()
        task = asyncio.create_task(answerer.ask(ONE, ["a"]))
        later = asyncio.create_task(answerer.ask(OTHER, ["a"]))
        while not model.calls:
            await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_later(0.05, model.free.set)
        await answerer.close()
        with pytest.raises(asyncio.CancelledError):
            await later
        task.cancel()

    run(test)
