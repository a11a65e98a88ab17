"""The search of a library that is served, and the jobs that add to it."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from r2rt.service.settings import Settings
from tests.r2rt.service.conftest import DEMO_FOLDER, Run, Served, serving

EMOJI = DEMO_FOLDER / "emoji.mp4"


def test_a_video_is_added_to_the_library_and_found(settings: Settings, tmp_path: Path) -> None:
    pytest.importorskip("lance")

    async def main() -> None:
        changed = dataclasses.replace(settings, library=str(tmp_path / "library"))
        async with serving(changed) as it:
            video = (await it.post("/videos", {"path": str(EMOJI), "encode": False})).json()
            job = await it.run("index", video=video["id"])
            assert job["state"] == "done", job
            found = await it.get("/search", params={"q": "a panda", "top": 3})
            assert found.status_code == 200, found.text
            best = found.json()["results"][0]
            assert (best["video"], best["name"]) == (video["id"], "emoji.mp4")
            assert 48 <= best["start_s"] <= 60  # where the panda is
            image = await it.client.get(best["thumbnail"])
            assert image.headers["content-type"] == "image/jpeg"
            bad = await it.get("/search", params={"q": "a panda", "where": "no such column = 1"})
            assert bad.status_code == 400
            assert bad.json()["code"] == "QueryError"

    asyncio.run(main())


def test_without_a_library_a_search_says_how_to_serve_one(served: Run) -> None:
    async def test(it: Served) -> None:
        response = await it.get("/search", params={"q": "x"})
        assert (response.status_code, response.json()["code"]) == (409, "no-library")

    served(test)
