"""What the service's tests share: a service over the demo model, and a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import av
import httpx2
import pytest

from r2rt.service.app import create_app
from r2rt.service.service import Service
from r2rt.service.settings import Settings
from tests.conftest import CHECKOUT

API = "/api/v1"
DEMO_FOLDER = CHECKOUT / "demo"


class Served:
    """A service that runs in this process, and a client that speaks to it without a network."""

    def __init__(self, service: Service, client: httpx2.AsyncClient) -> None:
        self.service = service
        self.client = client

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        return await self.client.get(f"{API}{path}", **options)

    async def post(self, path: str, json: Any = None, **options: Any) -> httpx2.Response:
        return await self.client.post(f"{API}{path}", json=json, **options)

    async def add(self, path: Path, **options: Any) -> dict[str, Any]:
        """Add a video and wait until it is encoded."""
        response = await self.post("/videos", {"path": str(path), **options})
        assert response.status_code == 201, response.text
        video: dict[str, Any] = response.json()
        if video["job"] is not None:
            job = await self.finished(video["job"])
            assert job["state"] == "done", job
        return video

    async def run(self, kind: str, **request: Any) -> dict[str, Any]:
        """Submit a job and wait for it."""
        response = await self.post("/jobs", {"kind": kind, **request})
        assert response.status_code == 202, response.text
        return await self.finished(response.json()["id"])

    async def finished(self, job: str) -> dict[str, Any]:
        """Return a job once it is finished, by its events."""
        last = {}
        async with self.client.stream("GET", f"{API}/jobs/{job}/events") as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    last = httpx2.Response(200, text=line[6:]).json()
        assert last["state"] in ("done", "failed", "cancelled"), last
        return last


# Runs a coroutine function with a service and returns its result.
Run = Callable[[Callable[[Served], Awaitable[Any]]], Any]


@asynccontextmanager
async def serving(settings: Settings, **client: Any) -> AsyncIterator[Served]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        options = {"base_url": "http://127.0.0.1:8080"} | client
        async with httpx2.AsyncClient(transport=transport, **options) as opened:
            yield Served(app.state.service, opened)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        folder=tmp_path / "service", roots=(DEMO_FOLDER,), model="demo", device="cpu", rate=0
    )


@pytest.fixture
def served(settings: Settings) -> Run:
    """Run a coroutine function with a service; its result is returned."""

    def run(test: Callable[[Served], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with serving(settings) as opened:
                return await test(opened)

        return asyncio.run(main())

    return run


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's video as a file that grows no more, which is read as fast as it can be."""
    from r2rt.live import SourceOptions

    def options(*, realtime: bool) -> SourceOptions:
        assert realtime
        return SourceOptions(follow=True, timeout_s=0.5, no_drop=True)

    monkeypatch.setattr("r2rt.live.SourceOptions", options)
    path = tmp_path / "emoji.ts"
    with av.open(str(DEMO_FOLDER / "emoji.mp4")) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    return path
