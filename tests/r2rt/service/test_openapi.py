"""The OpenAPI document: complete, and true of the responses."""

from __future__ import annotations

from typing import Any

import jsonschema

from tests.r2rt.service.conftest import API, DEMO_FOLDER, Run, Served


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_is_documented(served: Run) -> None:
    async def test(it: Served) -> Any:
        return (await it.client.get("/openapi.json")).json()

    document = served(test)
    found = operations(document)
    assert len(found) > 30
    names = [operation["operationId"] for _, _, operation in found]
    assert len(set(names)) == len(names)
    for path, method, operation in found:
        assert operation["description"].endswith("."), (method, path)
        if path.startswith(API):
            assert "application/problem+json" in operation["responses"]["default"]["content"]
    components = document["components"]["schemas"]
    assert all(item.get("description") for item in components.values() if "enum" not in item)


def test_media_take_the_version_of_their_video(served: Run) -> None:
    async def test(it: Served) -> Any:
        return (await it.client.get("/openapi.json")).json()["paths"]

    paths = served(test)
    for name in ("file", "filmstrip", "frame", "peaks", "clip"):
        parameters = paths[f"{API}/videos/{{video_id}}/{name}"]["get"]["parameters"]
        (version,) = (item for item in parameters if item["name"] == "v")
        assert version["description"] == "`version` of the video; for caches."


def test_what_is_answered_is_what_is_documented(served: Run) -> None:
    async def test(it: Served) -> None:
        document = (await it.client.get("/openapi.json")).json()

        async def check(method: str, path: str, template: str, **options: Any) -> Any:
            response = await it.client.request(method, f"{API}{path}", **options)
            operation = document["paths"][f"{API}{template}"][method.lower()]
            name = str(response.status_code)
            content = operation["responses"].get(name, operation["responses"]["default"])["content"]
            type_ = response.headers["content-type"]
            assert type_ in content, (method, path, response.text)
            schema = content[type_].get("schema", {"$ref": "#/components/schemas/ProblemDocument"})
            whole = {"components": document["components"], **schema}
            jsonschema.Draft202012Validator(whole).validate(response.json())
            return response.json()

        video = await it.add(DEMO_FOLDER / "emoji.mp4")
        place, job = f"/videos/{video['id']}", video["job"] or "0" * 16
        await check("GET", "/models", "/models")
        await check("GET", "/videos", "/videos")
        await check("GET", place, "/videos/{video_id}")
        await check("GET", f"/jobs/{job}", "/jobs/{job_id}")
        await check("GET", "/jobs", "/jobs")
        await check("GET", f"{place}/peaks?count=3", "/videos/{video_id}/peaks")
        await check("GET", f"{place}/annotations", "/videos/{video_id}/annotations")
        await check("GET", "/watches", "/watches")
        await check("GET", "/session", "/session")
        body = {"queries": ["a panda"]}
        await check("POST", f"{place}/ground", "/videos/{video_id}/ground", json=body)
        body = {"queries": [""]}
        wrong = await check("POST", f"{place}/ground", "/videos/{video_id}/ground", json=body)
        assert wrong["code"] == "invalid-request"
        missing = await check("GET", f"/videos/{'0' * 16}", "/videos/{video_id}")
        assert missing["status"] == 404

    served(test)


def test_the_page_of_addresses_lists_all_and_runs_nothing(served: Run) -> None:
    async def test(it: Served) -> None:
        document = (await it.client.get("/openapi.json")).json()
        page = (await it.client.get("/docs")).text
        assert all(path in page for path in document["paths"])
        assert "<script" not in page
        assert "http://" not in page
        assert "https://" not in page

    served(test)
