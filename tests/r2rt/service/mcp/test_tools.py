"""The tools as an agent's client sees them, over stdio, over HTTP and in this process."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import importlib
import io
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import av
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ImageContent, TextContent
from PIL import Image

from r2rt.service.computing import Computing, NotEncodedError
from r2rt.service.mcp.api import Api
from r2rt.service.mcp.server import mcp_server
from r2rt.service.settings import Settings
from tests.conftest import CHECKOUT
from tests.r2rt.service.conftest import Served, serving
from tests.r2rt.service.live_server import live_server

T = TypeVar("T")
EMOJI = CHECKOUT / "demo" / "emoji.mp4"
PANDA_S = (53.3, 63.1)  # by the generator of the video, demo/emoji.json


@pytest.fixture
def asked(settings: Settings, tmp_path: Path) -> Callable[..., Any]:
    """Run a coroutine function with a client of the tools; its result is returned."""

    def run(test: Callable[[Client, Served], Awaitable[T]], changed: Settings = settings) -> T:
        async def main() -> T:
            async with serving(changed) as served:
                server = mcp_server(served.client._transport.app, tmp_path)  # type: ignore[attr-defined]
                async with Client(server) as client:
                    return await test(client, served)

        return asyncio.run(main())

    return run


@pytest.fixture
def nothing_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))


def line(result: CallToolResult) -> str:
    """The message of an error."""
    assert result.is_error
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def test_there_are_eight_tools_with_typed_results(asked: Any) -> None:
    async def test(client: Client, _: Served) -> None:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == {
            *("list_videos", "add_video", "search_library", "ground"),
            *("watch", "clip", "export", "job_status"),
        }
        assert all(tool.description and tool.output_schema for tool in tools)
        assert not any("context" in tool.input_schema["properties"] for tool in tools)

    asked(test)


def test_a_video_is_added_with_progress_and_its_moment_found(asked: Any) -> None:
    async def test(client: Client, _: Served) -> None:
        seen: list[float] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            assert total == 1.0
            assert message is not None
            seen.append(progress)

        added = await client.call_tool("add_video", {"path": str(EMOJI)}, progress_callback=note)
        assert added.structured_content["state"] == "ready"
        assert seen == sorted(set(seen))
        assert seen[-1] == 1.0
        result = await client.call_tool(
            "ground", {"video": "emoji.mp4", "queries": ["a panda"], "keyframes": True}
        )
        text, image = result.content
        assert isinstance(text, TextContent)
        assert json.loads(text.text) == result.structured_content
        best = result.structured_content["answers"][0]["moments"][0]
        shared = min(best["end_s"], PANDA_S[1]) - max(best["start_s"], PANDA_S[0])
        assert shared > 0.5 * (PANDA_S[1] - PANDA_S[0])
        assert isinstance(image, ImageContent)
        with Image.open(io.BytesIO(base64.b64decode(image.data))) as picture:
            assert picture.size == (240, 240)
        queries = ["a panda", "a dog catches a frisbee"]
        result = await client.call_tool("ground", {"video": "emoji.mp4", "queries": queries})
        unknown = [answer["unknown_words"] for answer in result.structured_content["answers"]]
        assert unknown == [[], ["catches", "frisbee"]]

    asked(test)


def test_a_clip_is_a_resource_and_is_saved_where_that_is_wanted(asked: Any, tmp_path: Path) -> None:
    async def test(client: Client, _: Served) -> None:
        await client.call_tool("add_video", {"path": str(EMOJI), "wait_s": 0})
        span = {"video": "emoji", "start_s": 10.0, "end_s": 12.0}
        made = (await client.call_tool("clip", span)).structured_content
        assert made is not None
        (content,) = (await client.read_resource(made["uri"])).contents
        blob = base64.b64decode(content.blob)  # type: ignore[union-attr]
        assert len(blob) == made["size_bytes"]
        assert Path(made["path"]).parent == tmp_path
        assert Path(made["path"]).read_bytes() == blob
        with av.open(io.BytesIO(blob), "r") as container:
            assert sum(1 for _ in container.decode(video=0)) == 24  # 2 s of 12 frames each

    asked(test)


def test_answers_and_frames_are_resources(asked: Any) -> None:
    async def test(client: Client, served: Served) -> None:
        id_ = (await served.add(EMOJI))["id"]
        place = f"r2rt://videos/{id_}"
        (text,) = (await client.read_resource(f"{place}/answers/a%20panda")).contents
        document = json.loads(text.text)  # type: ignore[union-attr]
        (prediction,) = document["predictions"]
        assert prediction["query"] == "a panda"
        assert len(prediction["saliency"]["values"]) == 40
        best = prediction["moments"][0]
        assert PANDA_S[0] < (best["start_s"] + best["end_s"]) / 2 < PANDA_S[1]
        (text,) = (await client.read_resource(f"{place}/answers/a%20%2541")).contents
        assert json.loads(text.text)["predictions"][0]["query"] == "a %41"  # type: ignore[union-attr]
        (image,) = (await client.read_resource(f"{place}/frames/57.5.jpg")).contents
        assert image.mime_type == "image/jpeg"
        shown = await served.get(f"/videos/{id_}/frame", params={"time_s": 57.5})
        assert base64.b64decode(image.blob) == shown.content  # type: ignore[union-attr]
        with Image.open(io.BytesIO(shown.content)) as picture:
            assert (picture.format, picture.size) == ("JPEG", (360, 360))
        for missing in ("r2rt://videos/0000000000000000/answers/x", f"{place}/frames/x.jpg"):
            with pytest.raises(MCPError):
                await client.read_resource(missing)

    asked(test)


def test_moments_are_exported(asked: Any) -> None:
    async def test(client: Client, _: Served) -> None:
        await client.call_tool("add_video", {"path": str(EMOJI), "wait_s": 0})
        moments = [{"query": "a panda", "start_s": 54.0, "end_s": 62.5}]
        options = {"video": "emoji", "format": "srt", "moments": moments}
        exported = (await client.call_tool("export", options)).structured_content
        assert exported is not None
        assert "00:00:54,000 --> 00:01:02,500" in exported["text"]
        assert Path(exported["path"]).read_text() == exported["text"]

    asked(test)


def test_work_that_takes_longer_than_the_wait_is_a_job(asked: Any, nothing_encoded: None) -> None:
    async def test(client: Client, served: Served) -> None:
        options = {"path": str(EMOJI), "wait_s": 0}
        video = (await client.call_tool("add_video", options)).structured_content
        assert video is not None
        assert video["job"] is not None
        await served.finished(video["job"])
        job = (await client.call_tool("job_status", {"job": video["job"]})).structured_content
        assert job is not None
        assert (job["state"], job["progress"]) == ("done", 1.0)

    asked(test)


@pytest.mark.parametrize("answered", [False, True])
def test_a_call_that_is_cancelled_cancels_its_job(
    asked: Any, nothing_encoded: None, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    begun, gone = asyncio.Event(), asyncio.Event()
    try_fetch = Api.try_fetch

    async def slow(api: Api, method: str, path: str, **options: Any) -> Any:
        response = await try_fetch(api, method, path, **options)
        if (method, path) == ("POST", "videos"):
            begun.set()
            if not answered:  # the job has begun, and the tool does not know of it yet
                await gone.wait()
        return response

    def endless(_: Computing, path: Path, model: str | None, update: Callable[..., None]) -> None:
        while True:  # until the update raises
            update(0, 1)
            time.sleep(0.01)

    monkeypatch.setattr(Api, "try_fetch", slow)
    monkeypatch.setattr(Computing, "encode", endless)

    async def test(client: Client, served: Served) -> None:
        call = asyncio.create_task(client.call_tool("add_video", {"path": str(EMOJI)}))
        await begun.wait()
        (job,) = (await served.get("/jobs")).json()
        call.cancel()
        asyncio.get_running_loop().call_later(0.2, gone.set)
        await asyncio.gather(call, return_exceptions=True)
        assert (await served.finished(job["id"]))["state"] == "cancelled"

    asked(test)


def test_a_call_that_is_cancelled_leaves_a_job_that_somebody_else_began(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, waits = threading.Event(), asyncio.Event()
    finished = Api.finished

    def encode(_: Computing, path: Path, model: str | None, update: Callable[..., None]) -> Any:
        while not goes_on.wait(0.01):
            update(0, 1)
        return 1, 2.0

    async def wait(*arguments: Any) -> Any:
        waits.set()
        return await finished(*arguments)

    monkeypatch.setattr(Computing, "encode", encode)
    monkeypatch.setattr(Api, "finished", wait)

    async def test(client: Client, served: Served) -> None:
        video = (await served.post("/videos", {"path": str(EMOJI)})).json()
        options = {"video": "emoji.mp4", "queries": ["a panda"]}
        monkeypatch.setattr(Computing, "answer", _not_encoded)
        call = asyncio.create_task(client.call_tool("ground", options))
        await waits.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(0.3)  # in which the tool ends what it began
        goes_on.set()
        assert (await served.finished(video["job"]))["state"] == "done"

    asked(test)


def _not_encoded(*_: Any) -> Any:
    raise NotEncodedError


def test_errors_say_what_to_do(asked: Any) -> None:
    async def test(client: Client, _: Served) -> None:
        outside = await client.call_tool("add_video", {"path": "/etc/passwd"})
        assert "may be added from" in line(outside)
        assert str(CHECKOUT / "demo") in line(outside)
        await client.call_tool("add_video", {"path": str(EMOJI), "wait_s": 0})
        missing = await client.call_tool("ground", {"video": "talk", "queries": ["a dog"]})
        assert "there is no video 'talk'; there are: emoji.mp4" in line(missing)
        backwards = await client.call_tool("clip", {"video": "emoji", "start_s": 2, "end_s": 1})
        assert "start_s < end_s" in line(backwards)
        no_job = await client.call_tool("job_status", {"job": "0" * 16})
        assert "no job has this id" in line(no_job)
        with pytest.raises(MCPError, match="no video has this id"):
            await client.read_resource(f"r2rt://videos/{'0' * 16}")

    asked(test)


def test_a_job_is_all_that_job_status_cancels(asked: Any) -> None:
    async def test(client: Client, served: Served) -> None:
        video = (await served.add(EMOJI, encode=False))["id"]
        for job in (f"../videos/{video}", f"..%2Fvideos%2F{video}", "?limit=1", ""):
            for cancel in (False, True):
                result = await client.call_tool("job_status", {"job": job, "cancel": cancel})
                assert result.is_error, (job, cancel)
        assert (await served.get(f"/videos/{video}")).status_code == 200

    asked(test)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
def test_tools_answer_by_the_name_that_the_service_goes_by(settings: Settings, path: str) -> None:
    name = "videos.example.org"
    there = dataclasses.replace(settings, host="0.0.0.0", allowed_hosts=(name,))

    async def main() -> None:
        async with serving(there, base_url=f"http://{name}") as served:
            token = served.service.tokens.add("agent", ("read",))
            headers = {
                "Authorization": f"Bearer {token}",
                "Accept": "application/json, text/event-stream",
            }

            async def send(method: str, **parameters: Any) -> Any:
                body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
                response = await served.client.post(path, headers=headers, json=body)
                assert response.status_code == 200, response.headers
                headers["Mcp-Session-Id"] = response.headers["mcp-session-id"]
                return json.loads(response.text.partition("data: ")[2])["result"]

            client = {"name": "test", "version": "1"}
            await send(
                "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=client
            )
            listed = await send("tools/call", name="list_videos", arguments={})
            assert listed["structuredContent"] == {"videos": []}

    asyncio.run(main())


@pytest.mark.slow
def test_live_video_is_watched_to_its_end(asked: Any, settings: Settings, recording: Path) -> None:
    async def test(client: Client, served: Served) -> None:
        seen: list[str] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            seen.append(message or "")

        options = {"source": str(recording), "queries": ["a panda"], "seconds": 120}
        result = await client.call_tool("watch", options, progress_callback=note)
        watched = result.structured_content
        assert watched is not None, result.content
        assert (watched["source"], watched["ended"]) == ("emoji.ts", True)
        opened = [event for event in watched["events"] if event["event"] == "opened"]
        assert any(48 <= event["start_s"] <= 60 for event in opened)  # where the panda is
        assert "opened: a panda" in seen
        assert (await served.get("/watches")).json() == []  # it left nothing behind
        outside = await client.call_tool("watch", options | {"source": "/etc/passwd"})
        assert "may be added from" in line(outside)

    served_roots = dataclasses.replace(settings, roots=(recording.parent,))
    asked(test, served_roots)


def test_what_is_asked_for_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Settings] = []

    async def serve(settings: Settings, _: Path | None) -> None:
        served.append(settings)

    command = importlib.import_module("r2rt.cli.mcp")
    monkeypatch.setattr(command, "_serve", serve)
    library = "s3://bucket/library"  # as a path it would lose a slash
    options = ["--model", "demo", "--precision", "int8"]
    command.mcp.main([library, *options], standalone_mode=False)
    assert [(settings.library, settings.precision) for settings in served] == [(library, "int8")]


@pytest.mark.slow  # a process that loads everything
def test_over_http(tmp_path: Path) -> None:
    async def ask(address: str) -> Any:
        async with Client(f"{address}mcp") as client:
            assert len((await client.list_tools()).tools) == 8
            await client.call_tool("add_video", {"path": str(EMOJI)})
            options = {"video": "emoji", "queries": ["a panda"], "keyframes": True}
            result = await client.call_tool("ground", options)
            assert isinstance(result.content[1], ImageContent)
            video = result.structured_content["video"]
            (content,) = (await client.read_resource(f"r2rt://videos/{video}")).contents
            assert json.loads(content.text)["name"] == "emoji.mp4"  # type: ignore[union-attr]
            return result.structured_content

    with live_server(tmp_path / "state") as server:
        answer = asyncio.run(ask(str(server.client.base_url)))
    best = answer["answers"][0]["moments"][0]
    assert PANDA_S[0] < (best["start_s"] + best["end_s"]) / 2 < PANDA_S[1]


@pytest.mark.slow  # a process that loads everything
def test_over_stdio(tmp_path: Path) -> None:
    async def main() -> Any:
        arguments = ["-m", "r2rt", "mcp", "--model", "demo", "--root", str(EMOJI.parent)]
        server = StdioServerParameters(command=sys.executable, args=arguments, cwd=CHECKOUT)
        async with Client(stdio_client(server)) as client:
            await client.call_tool("add_video", {"path": str(EMOJI)})
            options = {"video": "emoji", "queries": ["a panda"]}
            return (await client.call_tool("ground", options)).structured_content

    answer = asyncio.run(main())
    best = answer["answers"][0]["moments"][0]
    assert PANDA_S[0] < (best["start_s"] + best["end_s"]) / 2 < PANDA_S[1]
