"""Corrections of moments become annotations that training accepts."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from pathlib import Path

from r2rt.service.settings import Settings
from tests.r2rt.service.conftest import DEMO_FOLDER, Run, Served, serving


def test_annotations_are_kept_and_are_valid_for_training(served: Run, tmp_path: Path) -> None:
    records = [
        {"query": "a <panda>", "windows": [[30.0, 34.0], [2.0, 8.5]], "rejected": [[50.0, 60.0]]},
        {"query": "nothing of this", "windows": [], "rejected": [[1.0, 2.0]]},
        {"query": "to the very end", "windows": [[70.0, 90.0]], "rejected": []},
    ]

    async def test(it: Served) -> str:
        video = await it.post("/videos", {"path": str(DEMO_FOLDER / "emoji.mp4"), "encode": False})
        place = f"/videos/{video.json()['id']}/annotations"
        for _ in range(2):  # a second one replaces the first
            put = await it.client.put(f"/api/v1{place}", json={"records": records})
            assert put.status_code == 200, put.text
        assert (await it.get(place)).json() == {"records": records}
        for bad in (
            [{"query": "x", "windows": [[5.0, 5.0]]}],
            [{"query": "x", "windows": [[90.0, 95.0]]}],
            [{"query": "x", "windows": [[-1.0, 5.0]]}],
            [records[0], records[0]],
        ):
            put = await it.client.put(f"/api/v1{place}", json={"records": bad})
            assert put.status_code in (400, 422)
        assert (await it.get(place)).json() == {"records": records}
        everything = (await it.get("/annotations.jsonl")).text
        assert (await it.get(f"{place}.jsonl")).text == everything
        return everything

    lines = served(test)
    first, last = map(json.loads, lines.splitlines())
    assert first["relevant_windows"] == [[2.0, 8.5], [30.0, 34.0]]
    assert last["relevant_windows"] == [[70.0, 80.0]]
    from training.data.checks import check_file

    file = tmp_path / "annotations.jsonl"
    file.write_text(lines)
    checked = check_file(file)
    assert [str(problem) for problem in checked.problems] == []
    assert [item.query for item in checked.annotations] == ["a <panda>", "to the very end"]
    # Their ids are none of one's own lines, whose ids are numbers or the lines' numbers.
    ids: list[dict[str, object]] = [{"qid": 1}, {"qid": 2}, {}, {"qid": "panda"}]
    own = [
        {"vid": "mine", "query": f"query {number}", "relevant_windows": [[0, 5]], **given}
        for number, given in enumerate(ids)
    ]
    file.write_text(lines + "".join(json.dumps(line) + "\n" for line in own))
    assert check_file(file).problems == []


def test_of_two_writers_who_read_the_same_annotations_the_second_is_told(served: Run) -> None:
    def records(query: str) -> dict[str, object]:
        return {"records": [{"query": query, "windows": [[1, 2]], "rejected": []}]}

    async def test(it: Served) -> None:
        video = await it.post("/videos", {"path": str(DEMO_FOLDER / "emoji.mp4"), "encode": False})
        place = f"/api/v1/videos/{video.json()['id']}/annotations"
        read = {"If-Match": (await it.client.get(place)).headers["etag"]}
        first = await it.client.put(place, json=records("one"), headers=read)
        assert first.status_code == 200
        second = await it.client.put(place, json=records("two"), headers=read)
        assert (second.status_code, second.json()["code"]) == (412, "annotations-changed")
        now = await it.client.get(place)
        assert now.json() == records("one")
        assert now.headers["etag"] == first.headers["etag"]
        weak = {"If-Match": f"W/{now.headers['etag']}"}
        for headers in (weak, {"If-Match": "*"}, {}):
            put = await it.client.put(place, json=records("two"), headers=headers)
            assert put.status_code == 200

    served(test)


def test_what_was_decided_stays_after_a_shorter_file_took_the_place(
    settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "film.mp4"
    shutil.copy(DEMO_FOLDER / "emoji.mp4", file)  # 80 s

    async def test() -> None:
        async with serving(dataclasses.replace(settings, roots=(tmp_path,))) as it:
            video = await it.post("/videos", {"path": str(file), "encode": False})
            place = f"/api/v1/videos/{video.json()['id']}/annotations"

            async def put(*records: tuple[str, list[float], list[list[float]]]) -> int:
                body = [{"query": q, "windows": [w], "rejected": r} for q, w, r in records]
                return (await it.client.put(place, json={"records": body})).status_code

            assert await put(("late", [70, 75], [[60, 65]])) == 200
            shutil.copy(DEMO_FOLDER / "shapes.mp4", file)  # 24 s
            assert await put(("late", [70, 75], [[60, 65]]), ("new", [2, 4], [])) == 200
            assert await put(("late", [60, 65], [[70, 75]])) == 200  # decided otherwise
            assert await put(("late", [60, 66], [])) == 400
            assert await put(("new", [60, 65], [])) == 400
            assert len((await it.client.get(place)).json()["records"]) == 1

    asyncio.run(test())


def test_a_video_of_the_library_is_looked_at_before_it_is_annotated(served: Run) -> None:
    async def test(it: Served) -> None:
        video = it.service.videos.add_known(str(DEMO_FOLDER / "emoji.mp4"))
        place = f"/api/v1/videos/{video.id}/annotations"
        for start_s, status in ((90.0, 400), (70.0, 200)):
            records = [{"query": "a panda", "windows": [[start_s, 95.0]]}]
            put = await it.client.put(place, json={"records": records})
            assert put.status_code == status
        line = json.loads((await it.get("/annotations.jsonl")).text)
        assert (line["duration"], line["relevant_windows"]) == (80.0, [[70.0, 80.0]])

    served(test)
