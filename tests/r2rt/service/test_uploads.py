"""Uploads by tus: resumed, refused, and named as nobody can misuse."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from r2rt.service.names import plain_name, stored_name
from r2rt.service.problems import ProblemError
from r2rt.service.settings import Settings
from r2rt.service.uploads import file_name
from tests.r2rt.service.conftest import API, DEMO_FOLDER, Run, Served, serving

TUS = {"Tus-Resumable": "1.0.0"}
PATCH = TUS | {"Content-Type": "application/offset+octet-stream"}
SHAPES = (DEMO_FOLDER / "shapes.mp4").read_bytes()


def metadata(name: str) -> str:
    return f"filetype dmlkZW8=,filename {base64.b64encode(name.encode()).decode()}"


async def begin(it: Served, length: int, name: str = "shapes.mp4", **headers: str) -> Any:
    sent = TUS | {"Upload-Length": str(length), "Upload-Metadata": metadata(name)} | headers
    return await it.client.post(f"{API}/uploads", headers=sent)


async def send(it: Served, place: str, offset: int, content: Any) -> httpx2.Response:
    headers = PATCH | {"Upload-Offset": str(offset)}
    return await it.client.patch(place, headers=headers, content=content)


def test_an_upload_goes_on_where_it_was_cut_off(served: Run) -> None:
    async def lost() -> AsyncIterator[bytes]:
        yield SHAPES[:5000]
        raise ConnectionError

    async def test(it: Served) -> None:
        place = (await begin(it, len(SHAPES), name="films/my <b>Film.mp4")).headers["location"]
        await send(it, place, 0, lost())
        head = await it.client.head(place, headers=TUS)
        assert head.headers["upload-offset"] == "5000"
        assert head.headers["cache-control"] == "no-store"
        wrong = await send(it, place, 0, SHAPES)
        assert (wrong.status_code, wrong.json()["code"]) == (409, "wrong-offset")
        part = await send(it, place, 5000, SHAPES[5000:9000])
        assert part.headers["upload-offset"] == "9000"
        assert "r2rt-video" not in part.headers
        last = await send(it, place, 9000, SHAPES[9000:])
        assert last.status_code == 204
        video = (await it.get(f"/videos/{last.headers['r2rt-video']}")).json()
        assert video["name"] == "my <b>Film.mp4"
        again = await it.client.head(place, headers=TUS)  # the answer may have been lost
        assert again.headers["r2rt-video"] == video["id"]
        file = await it.get(f"/videos/{video['id']}/file")
        assert file.content == SHAPES
        assert (await it.client.delete(f"{API}/videos/{video['id']}")).status_code == 204
        kept = [path for path in it.service.videos.folder.rglob("*") if path.is_file()]
        assert kept == []

    served(test)


def test_what_is_too_large_or_longer_than_announced_is_refused(settings: Settings) -> None:
    async def main() -> None:
        async with serving(dataclasses.replace(settings, max_upload_bytes=10_000)) as it:
            assert (await begin(it, 10_001)).status_code == 413
            place = (await begin(it, 1000)).headers["location"]
            assert (await send(it, place, 0, b"x" * 1001)).status_code == 413
            assert (await it.client.head(place, headers=TUS)).headers["upload-offset"] <= "1000"

    asyncio.run(main())


def test_a_slow_upload_is_ended_and_can_be_resumed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r2rt.service.routes.uploads._GRACE_S", 0.1)

    async def drops() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.02)

    async def pause() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(60)

    async def main() -> None:
        async with serving(dataclasses.replace(settings, body_timeout_s=0.3)) as it:
            place = (await begin(it, 100_000)).headers["location"]
            slow = await send(it, place, 0, drops())
            assert (slow.status_code, slow.json()["code"]) == (408, "too-slow")
            offset = int((await it.client.head(place, headers=TUS)).headers["upload-offset"])
            assert offset > 0
            paused = await send(it, place, offset, pause())
            assert paused.status_code == 408
            assert (await send(it, place, offset + 1, b"y")).status_code == 204

    asyncio.run(main())


def test_only_its_owner_reaches_an_upload_and_one_request_at_a_time(served: Run) -> None:
    async def test(it: Served) -> None:
        place = (await begin(it, 100)).headers["location"]
        tokens = [it.service.tokens.add(name, ("write",)) for name in ("a", "b")]
        for token in tokens:
            headers = TUS | {"Authorization": f"Bearer {token}"}
            assert (await it.client.head(place, headers=headers)).status_code == 404
            assert (await it.client.delete(place, headers=headers)).status_code == 404
        for token in ("a", "b"):
            it.service.tokens.remove(token)
        with it.service.uploads.receiving(place.rpartition("/")[2]):
            assert (await send(it, place, 0, b"x")).status_code == 423

    served(test)


@pytest.mark.parametrize("asks", ["HEAD", "PATCH"])
@pytest.mark.parametrize("moved", [False, True])
def test_a_whole_upload_becomes_a_video_though_the_process_ended_before(
    served: Run, monkeypatch: pytest.MonkeyPatch, moved: bool, asks: str
) -> None:
    def ends(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    target = "r2rt.service.videos.Videos.add_path" if moved else "r2rt.service.uploads.replace"

    async def test(it: Served) -> None:
        place = (await begin(it, len(SHAPES))).headers["location"]
        await send(it, place, 0, SHAPES[:-1])
        upload = it.service.uploads.get(place.rpartition("/")[2], "local")
        it.service.uploads._path(upload.id).write_bytes(SHAPES)
        with monkeypatch.context() as patched:
            patched.setattr(target, ends)
            with pytest.raises(KeyboardInterrupt):
                it.service.uploads.finish(upload)
        headers = PATCH | {"Upload-Offset": str(len(SHAPES))}
        answer = await it.client.request(asks, place, headers=headers)
        assert answer.headers["upload-offset"] == str(len(SHAPES))
        file = await it.get(f"/videos/{answer.headers['r2rt-video']}/file")
        assert file.content == SHAPES

    served(test)


def test_a_moved_file_goes_with_its_upload(served: Run) -> None:
    async def test(it: Served) -> None:
        place = (await begin(it, len(SHAPES))).headers["location"]
        upload = it.service.uploads.get(place.rpartition("/")[2], "local")
        moved = it.service.uploads._moved(upload.id, upload.name)
        moved.parent.mkdir(parents=True)
        it.service.uploads._path(upload.id).rename(moved)
        assert (await it.client.delete(place, headers=TUS)).status_code == 204
        assert not moved.exists()

    served(test)


def test_what_is_no_video_is_removed(served: Run) -> None:
    async def test(it: Served) -> None:
        place = (await begin(it, 4000, name="film.mp4")).headers["location"]
        response = await send(it, place, 0, b"no video at all " * 250)
        assert (response.status_code, response.json()["code"]) == (422, "NotAVideoError")
        assert (await it.client.head(place, headers=TUS)).status_code == 404
        assert not list(it.service.settings.folder.rglob("film*"))

    served(test)


def test_another_version_or_type_is_refused(served: Run) -> None:
    async def test(it: Served) -> None:
        old = await begin(it, 10, **{"Tus-Resumable": "0.2.1"})
        assert (old.status_code, old.headers["tus-version"]) == (412, "1.0.0")
        place = (await begin(it, 10)).headers["location"]
        headers = TUS | {"Upload-Offset": "0", "Content-Type": "video/mp4"}
        assert (await it.client.patch(place, headers=headers, content=b"x")).status_code == 415
        options = await it.client.options(f"{API}/uploads")
        assert options.headers["tus-extension"] == "creation,expiration,termination"

    served(test)


def test_uploads_expire(settings: Settings) -> None:
    async def main() -> None:
        async with serving(dataclasses.replace(settings, upload_expiry_s=0.0)) as it:
            place = (await begin(it, 10)).headers["location"]
            it.service.uploads.expire()
            assert (await it.client.head(place, headers=TUS)).status_code == 404

    asyncio.run(main())


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("film.mp4", "film.mp4"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/etc/shadow", "shadow"),
        ("..", "video"),
        ("", "video"),
        ("a\0b\nc.mp4", "abc.mp4"),
        ("x" * 400, "x" * 200),
    ],
)
def test_names_lose_folders_and_control_characters(sent: str, name: str) -> None:
    assert file_name(metadata(sent)) == plain_name(sent) == name
    stored = stored_name(name)
    assert Path(stored).name == stored
    assert not stored.startswith(".")


def test_metadata_that_is_none_is_refused() -> None:
    with pytest.raises(ProblemError):
        file_name("filename !!!")
