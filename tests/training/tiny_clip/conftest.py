from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.world.toy_art import write_toy_sprites
from training.world.sprites import Sprites


@pytest.fixture(scope="session")
def toy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_sprites(tmp_path_factory.mktemp("art") / "sprites.npz")


@pytest.fixture(scope="session")
def toy_sprites(toy_file: Path) -> Sprites:
    return Sprites(toy_file)
