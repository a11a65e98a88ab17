"""A home of models that is empty, and a mirror to pull from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from r2rt.model import download as download_module
from r2rt.model import installed as models
from tests.r2rt.hub import Hub, running_hub


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(download_module, "_BACKOFF_S", 0.001)
    monkeypatch.setattr(models, "_DEMO", tmp_path / "no-demo")
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub
