"""Standing queries: events are kept, streamed from where a listener left, and posted."""

from __future__ import annotations

import asyncio
import dataclasses
import http.server
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from r2rt.live import Webhook
from r2rt.service.outbound import PublicTransport
from r2rt.service.settings import Settings
from r2rt.service.watches import Watches
from tests.r2rt.local_server import local_server
from tests.r2rt.service.conftest import API, Run, Served, serving


@pytest.fixture
def posted() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a server on this machine, and what was posted to it."""
    found: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            found.append(json.loads(self.rfile.read(length)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with local_server(Handler) as address:
        yield f"{address}/hook", found


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return dataclasses.replace(settings, roots=(tmp_path,))


async def events(it: Served, watch: str, last: int = 0) -> list[tuple[int, dict[str, Any]]]:
    """Read events until the last one."""
    found: list[tuple[int, dict[str, Any]]] = []
    number = 0
    headers = {"Last-Event-ID": str(last)}
    url = f"{API}/watches/{watch}/events"
    async with it.client.stream("GET", url, headers=headers) as response:
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                number = int(line[4:])
            if line.startswith("data: "):
                found.append((number, json.loads(line[6:])))
    return found


@pytest.mark.slow
def test_a_source_is_watched_to_its_end(recording: Path, posted: Any, settings: Settings) -> None:
    address, received = posted

    async def main() -> None:
        async with serving(dataclasses.replace(settings, private_addresses=True)) as it:
            body = {"source": str(recording), "queries": ["a panda"], "webhook": address}
            response = await it.post("/watches", body)
            assert response.status_code == 201, response.text
            watch = response.json()
            assert watch["source"] == "emoji.ts"
            found = await events(it, watch["id"])
            assert [number for number, _ in found] == list(range(1, len(found) + 1))
            kinds = [record["event"] for _, record in found]
            assert kinds[-1] == "ended", found
            starts = [record["start_s"] for _, record in found if record["event"] == "opened"]
            assert any(48 <= start_s <= 60 for start_s in starts)  # where the panda is
            assert received == [record | {"watch": watch["id"]} for _, record in found[:-1]]
            # Who comes back gets what follows the last event that it has.
            assert await events(it, watch["id"], last=found[-3][0]) == found[-2:]
            assert (await it.get(f"/watches/{watch['id']}")).json()["state"] == "ended"
            ended = await it.client.delete(f"{API}/watches/{watch['id']}")
            assert ended.status_code == 204
            assert (await it.get("/watches")).json() == []

    asyncio.run(main())


def test_webhooks_do_not_reach_private_addresses(posted: Any) -> None:
    address, received = posted
    hook = Webhook(address, transport=PublicTransport(), tries=1)
    hook.post({"event": "opened"})
    hook.close()
    assert (hook.delivered, hook.dropped) == (0, 1)
    assert received == []


@pytest.mark.parametrize(
    "source",
    ["/etc/passwd", "file:///etc/passwd", "concat:/a|/b", "/dev/video0", "-", "lavfi:testsrc", ""],
)
def test_what_may_not_be_read_is_not_watched(served: Run, source: str) -> None:
    async def test(it: Served) -> None:
        response = await it.post("/watches", {"source": source, "queries": ["x"]})
        assert response.status_code in (403, 422)
        assert (await it.get("/watches")).json() == []

    served(test)


def test_a_source_that_is_lost_is_a_failed_watch_and_shows_no_password(served: Run) -> None:
    async def test(it: Served) -> None:
        source = "rtsp://user:secret@127.0.0.1:9/stream"
        body = {"source": source, "queries": ["x"], "reconnect": 0}
        response = await it.post("/watches", body)
        assert "secret" not in response.text
        found = await events(it, response.json()["id"])
        assert found[-1][1]["event"] == "failed"
        assert "secret" not in str(found)

    served(test)


def test_words_that_the_model_does_not_know_are_listed(served: Run) -> None:
    async def test(it: Served) -> str:
        body = {
            "source": "rtsp://127.0.0.1:9/stream",
            "queries": ["a forklift", "a panda beside a forklift"],
            "reconnect": 1000,
        }
        watch = (await it.post("/watches", body)).json()
        assert watch["unknown_words"] == ["forklift"]
        return str(watch["id"])

    async def after_a_restart(it: Served) -> None:
        while not (await it.get("/watches")).json()[0]["unknown_words"]:
            await asyncio.sleep(0.01)
        (watch,) = (await it.get("/watches")).json()
        assert (watch["id"], watch["unknown_words"]) == (id_, ["forklift"])

    id_ = served(test)
    served(after_a_restart)


def test_a_model_that_is_not_there_is_refused_at_once(served: Run) -> None:
    async def test(it: Served) -> None:
        body = {"source": "rtsp://camera/1", "queries": ["x"], "model": "nosuch"}
        response = await it.post("/watches", body)
        assert response.status_code == 404, response.text
        assert (await it.get("/watches")).json() == []

    served(test)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watches have three events each; those of `rtsp://ends` end, others go on."""

    def watch(it: Watches, id_: str, request: dict[str, Any], running: Any) -> None:
        for number in range(3):
            it._publish(id_, running, {"event": "opened", "moment_id": number})
        while not running.stopping and "ends" not in request["source"]:
            time.sleep(0.01)

    monkeypatch.setattr(Watches, "_watch", watch)


async def begin(it: Served, source: str = "rtsp://camera/1") -> str:
    response = await it.post("/watches", {"source": source, "queries": ["x"]})
    id_: str = response.json()["id"]
    return id_


def test_a_watch_goes_on_after_a_restart(served: Run, made_up: None) -> None:
    async def later(it: Served) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await it.get("/watches")).json()
        return found

    id_ = served(begin)
    assert [(item["id"], item["state"]) for item in served(later)] == [(id_, "running")]


def test_events_after_a_restart_follow_those_before(served: Run, made_up: None) -> None:
    """A browser connects again by itself, and says which event was its last."""

    async def seen(it: Served, id_: str, last: int) -> list[int]:
        while (await it.get(f"/watches/{id_}")).json()["events"] < 3:
            await asyncio.sleep(0.01)
        numbers = [number for number, _ in it.service.watches.events(id_, last)]
        assert len(numbers) == 3
        assert all(number > last for number in numbers)
        return numbers

    id_ = served(begin)
    last = 0
    for _ in range(3):
        numbers = served(partial(seen, id_=id_, last=last))
        assert numbers == sorted(set(numbers))
        last = numbers[-1]


def test_listeners_hear_of_the_end_of_a_watch_that_is_removed(served: Run, made_up: None) -> None:
    async def test(it: Served) -> None:
        id_ = await begin(it)
        listening = asyncio.create_task(events(it, id_))
        while not it.service.hub.listeners:
            await asyncio.sleep(0.01)
        assert (await it.client.delete(f"{API}/watches/{id_}")).status_code == 204
        found = await asyncio.wait_for(listening, 5)
        assert found[-1][1]["event"] == "ended"

    served(test)


def test_a_watch_that_is_over_says_so_however_late(served: Run, made_up: None) -> None:
    async def ended(it: Served) -> str:
        id_ = await begin(it, "rtsp://ends")
        found = await events(it, id_)
        assert [number for number, _ in found] == [1, 2, 3, 4]
        again = await asyncio.wait_for(events(it, id_, last=4), 5)
        assert [record["event"] for _, record in again] == ["ended"]
        return id_

    async def later(it: Served) -> None:
        found = await asyncio.wait_for(events(it, id_), 5)
        assert [record["event"] for _, record in found] == ["ended"]

    id_ = served(ended)
    served(later)


def test_a_watch_that_ended_is_forgotten_after_a_while(
    settings: Settings, served: Run, made_up: None
) -> None:
    async def ended(it: Served) -> str:
        id_ = await begin(it, "rtsp://ends")
        await events(it, id_)
        return id_

    async def here(it: Served) -> None:
        goes_on, over = await begin(it), await ended(it)
        it.service.watches.expire(time.time() - 60)
        assert {item["id"] for item in (await it.get("/watches")).json()} == {goes_on, over, before}
        it.service.settings = dataclasses.replace(settings, results_expiry_s=0)
        it.service._tidy_once()
        assert [item["id"] for item in (await it.get("/watches")).json()] == [goes_on]
        assert it.service.watches.events(over) == []

    before = served(ended)
    served(here)


def test_events_that_come_while_others_are_read_do_no_harm(served: Run, made_up: None) -> None:
    async def test(it: Served) -> None:
        id_ = await begin(it)
        kept = it.service.watches._running[id_].events

        class Number(int):
            def __gt__(self, other: int) -> bool:
                kept.append((1000, {}))  # as the thread of the watch does
                return int(self) > other

        kept.append((Number(500), {}))
        assert (500, {}) in it.service.watches.events(id_)

    served(test)
