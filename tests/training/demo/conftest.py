from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.world.toy_art import write_toy_sprites
from training.clip import ClipTowers
from training.demo.clip import load_tiny_clip
from training.demo.scenes import Pool, draw_pool, encode_pool, sample_pool
from training.tiny_clip.model import TinyClip
from training.world.sprites import Sprites


@pytest.fixture(scope="session")
def toy_sprites(tmp_path_factory: pytest.TempPathFactory) -> Sprites:
    return Sprites(write_toy_sprites(tmp_path_factory.mktemp("art") / "sprites.npz"))


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP of random weights."""
    path = tmp_path_factory.mktemp("clip") / "checkpoint.pt"
    torch.manual_seed(0)
    torch.save({"average": TinyClip().state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def towers(clip_file: Path) -> ClipTowers:
    return load_tiny_clip(clip_file)


@pytest.fixture(scope="session")
def pool(
    toy_sprites: Sprites, towers: ClipTowers, tmp_path_factory: pytest.TempPathFactory
) -> Pool:
    folder = tmp_path_factory.mktemp("scenes")
    draw_pool(folder, sample_pool(0, 40, toy_sprites), toy_sprites, 64)
    encode_pool(folder, towers)
    return Pool.open(folder)
