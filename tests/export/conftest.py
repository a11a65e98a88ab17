from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from export.exporter import Exported, export_bundle
from tests.export.tiny import HIGHLIGHT, MOMENT, tiny_towers
from tests.golden_data import one_thread
from tests.once import made_once
from training.model import R2Config, R2Tuning


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def moment_bundle(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The golden moment model behind small random towers."""

    def make(folder: Path) -> Exported:
        with one_thread():
            return export_bundle(MOMENT, folder / "moment", clip=tiny_towers(), name="moment")

    return made_once(tmp_path_factory, "export-moment", make)


@pytest.fixture(scope="session")
def highlight_bundle(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The golden highlight model (no endpoint features, one level) behind the same towers."""

    def make(folder: Path) -> Exported:
        with one_thread():
            return export_bundle(
                HIGHLIGHT, folder / "highlight", clip=tiny_towers(), recipe="youtube_dog"
            )

    return made_once(tmp_path_factory, "export-highlight", make)


@pytest.fixture(scope="session")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A model with random weights, of the size of a published one that finds moments."""

    def make(folder: Path) -> Exported:
        torch.manual_seed(0)
        torch.save(R2Tuning(R2Config()).state_dict(), folder / "model.pth")
        return export_bundle(
            folder / "model.pth", folder / "bundle", clip="random:3", recipe="qvhighlights"
        )

    return made_once(tmp_path_factory, "export-full-size", make)
