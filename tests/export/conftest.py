from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from export.exporter import Exported, export_bundle
from tests.export.tiny import HIGHLIGHT, MOMENT, tiny_towers
from tests.golden_data import one_thread


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def moment_bundle(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The golden moment model behind small random towers."""
    folder = tmp_path_factory.mktemp("bundles")
    with one_thread():
        return export_bundle(MOMENT, folder / "moment", clip=tiny_towers(), name="moment")


@pytest.fixture(scope="session")
def highlight_bundle(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The golden highlight model (no endpoint features, one level) behind the same towers."""
    folder: Path = tmp_path_factory.mktemp("bundles")
    with one_thread():
        return export_bundle(
            HIGHLIGHT, folder / "highlight", clip=tiny_towers(), recipe="youtube_dog"
        )
