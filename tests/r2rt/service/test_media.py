"""Images and clips of videos: which are kept, and which are refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from r2rt.errors import QueryError
from r2rt.service.media import Media
from tests.r2rt.service.conftest import API, DEMO_FOLDER, Run, Served

EMOJI = DEMO_FOLDER / "emoji.mp4"  # as wide as it is high


@pytest.fixture
def media(tmp_path: Path) -> Iterator[Media]:
    opened = Media(tmp_path / "media", 1)
    yield opened
    opened.close()


def test_a_strip_that_is_wider_than_a_jpeg_can_be_is_refused(media: Media) -> None:
    with pytest.raises(QueryError, match="65600 pixels wide"):
        media.filmstrip(EMOJI, 0.0, 1.0, 200, 328)


def test_a_clip_that_is_too_large_to_be_kept_is_refused_and_leaves_nothing(
    media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "r2rt.media.movie.write_movie", lambda file, _: file.write_bytes(bytes(2001))
    )
    media._kept.max_bytes = 4000
    with pytest.raises(QueryError, match="a job of kind `clips`"):
        media.clip(EMOJI, 0.0, 1.0)
    assert [file for file in media._kept.folder.iterdir() if file.stat().st_size] == []


def test_times_on_either_side_of_a_frame_s_start_have_images_of_their_own(
    media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Media, "_frame", lambda _, *asked: repr(asked[1]).encode())
    assert [media.frame(EMOJI, time_s, 90) for time_s in (0.0833, 0.0834, 0.0833)] == [
        b"0.0833",
        b"0.0834",
        b"0.0833",
    ]


@pytest.mark.parametrize("left", [False, True])
def test_nothing_is_made_for_a_client_that_has_left(served: Run, *, left: bool) -> None:
    async def test(it: Served) -> None:
        video = (await it.add(EMOJI, encode=False))["id"]
        app = it.client._transport.app  # type: ignore[attr-defined]
        messages = [{"type": "http.request", "body": b"", "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            if messages:
                return messages.pop()
            if not left:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": f"{API}/videos/{video}/frame",
            "query_string": b"time_s=2&height=90",
            "headers": [(b"host", b"127.0.0.1")],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 80),
        }
        await app(scope, receive, send)
        assert sent[0]["status"] == (408 if left else 200)
        assert bool(list((it.service.settings.folder / "media").iterdir())) != left

    served(test)


def test_slow_media_leave_threads_for_all_else(
    served: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def slow(*_: Any) -> Any:
        assert goes_on.wait(60)
        return np.zeros((2, 0), np.int8)

    monkeypatch.setattr(Media, "peaks", slow)

    async def test(it: Served) -> None:
        video = (await it.add(EMOJI, encode=False))["id"]
        asked = [asyncio.create_task(it.get(f"/videos/{video}/peaks")) for _ in range(60)]
        try:
            await asyncio.sleep(0.5)
            listed = await asyncio.wait_for(it.get("/videos"), 10)
            assert listed.status_code == 200
        finally:
            goes_on.set()
        assert {(await answer).status_code for answer in asked} == {200}

    served(test)
