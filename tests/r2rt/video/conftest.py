from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.r2rt.video.clips import write_video

VideoMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def make_video(tmp_path_factory: pytest.TempPathFactory) -> VideoMaker:
    """`make_video("name.mp4", **how)` writes a numbered video once a session."""
    folder = tmp_path_factory.mktemp("videos")

    def make(name: str, **how: Any) -> Path:
        path = folder / name
        return path if path.exists() else write_video(path, **how)

    return make
