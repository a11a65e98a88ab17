"""Clients that send their headers slowly do not keep connections."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from r2rt.service.connections import timely

WITHIN_S = 0.4
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
Exchange = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(base: type[asyncio.Protocol], within_s: float) -> AsyncIterator[int]:
    async def answer(_: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1.25 * within_s)  # an answer may take longer than headers
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}
        )
        await send({"type": "http.response.body", "body": b"done"})

    config = uvicorn.Config(
        answer, port=0, http=timely(base, within_s), lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        await server.shutdown()


@pytest.fixture(params=[H11Protocol, HttpToolsProtocol])
def exchange(request: pytest.FixtureRequest) -> Callable[..., float]:
    """Run an exchange, of some seconds at most, with a server; return how long it took."""

    def run(talk: Exchange, within_s: float = WITHIN_S) -> float:
        async def main() -> float:
            async with serving(request.param, within_s) as port:
                began = time.monotonic()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    async with asyncio.timeout(20 * WITHIN_S):
                        await talk(reader, writer)
                    return time.monotonic() - began
                finally:
                    writer.close()

        return asyncio.run(main())

    return run


async def ends(reader: asyncio.StreamReader) -> bool:
    """Return whether the connection ends without an answer."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


def test_who_sends_nothing_is_not_waited_for(exchange: Any) -> None:
    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        assert await ends(reader)

    assert WITHIN_S <= exchange(talk) < 10 * WITHIN_S


def test_headers_that_trickle_in_are_not_waited_for(exchange: Any) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def trickle() -> None:
            with contextlib.suppress(ConnectionError):
                for byte in REQUEST[:20] + b"x" * 1000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(WITHIN_S / 10)

        sending = asyncio.create_task(trickle())
        assert await ends(reader)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert exchange(talk) < 10 * WITHIN_S


def test_a_slow_answer_is_finished_and_a_slow_second_request_is_not_waited_for(
    exchange: Any,
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(REQUEST[:9])
        await asyncio.sleep(0.02)
        writer.write(REQUEST[9:])
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        writer.write(REQUEST[:9])
        assert await ends(reader)

    exchange(talk, within_s=2 * WITHIN_S)


def test_headers_without_end_are_refused(exchange: Any) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(REQUEST[:-2])
            for number in range(4000):
                writer.write(b"X-%d: %s\r\n" % (number, b"y" * 1000))
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            assert b"200" not in await reader.read()

    exchange(talk, within_s=3600)  # their length ends it
