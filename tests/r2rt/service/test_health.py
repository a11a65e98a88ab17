"""Anybody may ask whether the service runs and answers."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

from r2rt.service.settings import Settings
from tests.r2rt.service.conftest import API, Run, Served, serving


def test_a_service_whose_model_answers_is_ready(served: Run) -> None:
    async def test(it: Served) -> None:
        it.service.tokens.add("me", ("read",))
        assert (await it.client.get(f"{API}/videos")).status_code == 401
        response = await it.client.get("/readyz")  # without a token
        assert (response.status_code, response.json()) == (200, {"status": "ready"})

    served(test)


def test_a_service_whose_model_is_broken_runs_and_is_not_ready(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "bundle.json").write_text("{}")

    async def main() -> None:
        broken = dataclasses.replace(settings, model=str(tmp_path / "model"))
        async with serving(broken) as it:
            response = await it.client.get("/readyz")
            assert (response.status_code, response.json()["code"]) == (503, "not-ready")
            assert "bundle.json" in response.json()["detail"]
            assert (await it.client.get("/healthz")).status_code == 200

    asyncio.run(main())
