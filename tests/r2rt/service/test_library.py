"""The search of a library that is served, and the jobs that add to it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from r2rt.archive.result import Hit, SearchResult, SearchTimings
from r2rt.service.settings import Settings
from tests.r2rt.service.conftest import DEMO_FOLDER, Run, Served, serving

EMOJI, SHAPES = DEMO_FOLDER / "emoji.mp4", DEMO_FOLDER / "shapes.mp4"


def test_a_video_is_added_to_the_library_and_found(settings: Settings, tmp_path: Path) -> None:
    pytest.importorskip("lance")

    async def main() -> None:
        changed = dataclasses.replace(settings, library=str(tmp_path / "library"))
        async with serving(changed) as it:
            video = (await it.post("/videos", {"path": str(EMOJI), "encode": False})).json()
            job = await it.run("index", video=video["id"])
            assert job["state"] == "done", job
            found = await it.get("/search", params={"q": "a guitar next to a pumpkin", "top": 3})
            assert found.status_code == 200, found.text
            best = found.json()["results"][0]
            assert (best["video"], best["name"]) == (video["id"], "emoji.mp4")
            assert 4 <= best["start_s"] <= 9  # where both are
            assert found.json()["unknown_words"] == []
            found = await it.get("/search", params={"q": "a panda juggles", "top": 1})
            assert found.json()["unknown_words"] == ["juggles"]
            image = await it.client.get(best["thumbnail"])
            assert image.headers["content-type"] == "image/jpeg"
            assert best["thumbnail"].endswith(f"&v={video['version']}")
            bad = await it.get("/search", params={"q": "a panda", "where": "no such column = 1"})
            assert bad.status_code == 400
            assert bad.json()["code"] == "QueryError"

    asyncio.run(main())


def test_without_a_library_a_search_says_how_to_serve_one(served: Run) -> None:
    async def test(it: Served) -> None:
        response = await it.get("/search", params={"q": "x"})
        assert (response.status_code, response.json()["code"]) == (409, "no-library")

    served(test)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address, at which every search finds a moment."""
    fsspec = pytest.importorskip("fsspec")
    address = "memory://anne:secret@bucket/a%20film.mp4?key=secret"
    with fsspec.open(address, "wb") as file:
        file.write(SHAPES.read_bytes())
    found = SearchResult(
        query="x",
        hits=(Hit(path=address, start_s=1.0, end_s=3.0, score=0.5, duration_s=9.0),),
        timings=SearchTimings(query_s=0, first_s=0, second_s=0),
    )
    monkeypatch.setattr("r2rt.service.computing.Computing.search", lambda *_: found)
    monkeypatch.setattr("r2rt.service.computing.Computing.encode", lambda *_: (1, 9.0))
    yield address
    fsspec.filesystem("memory").store.clear()


def test_a_hit_at_an_address_is_shown_from_there_and_fetched_when_it_is_wanted(
    served: Run, address: str
) -> None:
    async def test(it: Served) -> None:
        (hit,) = (await it.get("/search", params={"q": "x"})).json()["results"]
        (again,) = (await it.get("/search", params={"q": "x"})).json()["results"]
        assert (hit["name"], hit["video"]) == ("a film.mp4", again["video"])
        listed = await it.get("/videos")
        assert "secret" not in listed.text
        assert [(item["origin"], item["duration_s"]) for item in listed.json()] == [
            ("library", None)
        ]
        here = (await it.post("/videos", {"path": str(SHAPES), "encode": False})).json()
        mine = hit["thumbnail"].replace(hit["video"], here["id"])
        assert mine != hit["thumbnail"]
        images = [await it.client.get(path) for path in (hit["thumbnail"], mine)]
        assert images[0].headers["content-type"] == "image/jpeg"
        assert images[0].content == images[1].content
        span = {"start_s": 1.0, "end_s": 1.5}
        clips = [
            await it.get(f"/videos/{id_}/clip", params=span) for id_ in (hit["video"], here["id"])
        ]
        assert clips[0].status_code == 200
        assert clips[0].content == clips[1].content
        early = await it.get(f"/videos/{hit['video']}/file")
        assert (early.status_code, early.json()["code"]) == (409, "not-fetched")
        wanted = {"video": hit["video"], "format": "srt", "moments": [{"query": "x", **span}]}
        assert (await it.post("/export", wanted)).json()["code"] == "not-fetched"
        assert (await it.run("encode", video=hit["video"], encode=False))["state"] == "done"
        seen = (await it.get(f"/videos/{hit['video']}")).json()
        assert (seen["state"], seen["playable"], seen["duration_s"] > 0) == ("new", True, True)
        file = await it.get(f"/videos/{hit['video']}/file")
        assert (file.status_code, file.content) == (200, SHAPES.read_bytes())
        assert (await it.run("encode", video=hit["video"]))["state"] == "done"
        assert (await it.run("encode", video=hit["video"], encode=False))["state"] == "done"
        assert it.service.videos.get(hit["video"]).state == "ready"
        folder = it.service.settings.folder
        assert len(list(folder.rglob("*.mp4"))) == 1
        assert (await it.client.delete(f"/api/v1/videos/{hit['video']}")).status_code == 204
        assert list(folder.rglob("*.mp4")) == []

    served(test)


def test_a_question_about_a_hit_at_an_address_fetches_it(served: Run, address: str) -> None:
    async def test(it: Served) -> None:
        (hit,) = (await it.get("/search", params={"q": "x"})).json()["results"]
        asked = await it.post(f"/videos/{hit['video']}/ground", {"queries": ["a dog"]})
        assert (asked.status_code, asked.json()["code"]) == (409, "not-encoded")
        assert (await it.finished(asked.json()["job"]))["state"] == "done"
        assert it.service.videos.get(hit["video"]).path.read_bytes() == SHAPES.read_bytes()

    served(test)


def test_an_address_of_the_library_is_not_for_clients(served: Run, address: str) -> None:
    async def test(it: Served) -> None:
        assert (await it.get("/search", params={"q": "x"})).status_code == 200
        added = await it.post("/videos", {"url": address})
        assert (added.status_code, added.json()["code"]) == (422, "bad-url")

    served(test)


def test_a_hit_whose_address_holds_nothing_any_more(served: Run, address: str) -> None:
    async def test(it: Served) -> None:
        (hit,) = (await it.get("/search", params={"q": "x"})).json()["results"]
        pytest.importorskip("fsspec").filesystem("memory").store.clear()
        image = await it.client.get(hit["thumbnail"])
        assert (image.status_code, image.json()["detail"]) == (404, "a film.mp4: no such file")
        job = await it.run("encode", video=hit["video"])
        assert (job["state"], job["error"]["code"]) == ("failed", "fetch-failed")
        assert "secret" not in str(job)

    served(test)


def test_a_video_that_is_larger_than_what_may_be_uploaded_is_not_fetched(
    settings: Settings, address: str
) -> None:
    async def main() -> None:
        async with serving(dataclasses.replace(settings, max_upload_bytes=1000)) as it:
            (hit,) = (await it.get("/search", params={"q": "x"})).json()["results"]
            job = await it.run("encode", video=hit["video"])
            assert (job["state"], job["error"]["code"]) == ("failed", "too-large")

    asyncio.run(main())
