"""A miniature of the demo model, from nothing to answers above chance: data, CLIP, R², bundle."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from r2rt.grounding.grounder import Grounder
from tests.training.world.toy_art import write_toy_sprites
from training.demo.answers import BundleAnswerer, RandomAnswerer
from training.demo.clip import clip_tensors, load_tiny_clip
from training.demo.evaluate import evaluate, prepare
from training.demo.scenes import Pool, draw_pool, encode_pool, sample_pool
from training.demo.ship import ship
from training.demo.testset import sample_test_videos
from training.demo.train import Budget
from training.demo.train import train as train_block
from training.demo.videos import Shape
from training.tiny_clip.train import Settings
from training.tiny_clip.train import train as train_clip
from training.world.sprites import Sprites


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_nothing_to_above_chance(tmp_path: Path) -> None:
    began = time.perf_counter()
    torch.set_num_threads(2)
    art = write_toy_sprites(tmp_path / "sprites.npz")
    sprites = Sprites(art)

    settings = Settings(steps=350, batch=32, text_from=0.15, average=0.98, evaluate_s=1e9)
    train_clip(art, tmp_path / "clip", settings)
    print(f"CLIP: {time.perf_counter() - began:.0f} s")
    clip_file = tmp_path / "clip" / "checkpoint.pt"
    towers = load_tiny_clip(clip_file)

    draw_pool(tmp_path / "scenes", sample_pool(0, 400, sprites), sprites, 64)
    encode_pool(tmp_path / "scenes", towers)
    pool = Pool.open(tmp_path / "scenes")
    train_block(
        pool,
        towers,
        tmp_path / "r2",
        Budget(steps=300, warmup_steps=10, average=0.98, half=False),
        shape=Shape(videos=4, queries=5, absent=1, clips=(12, 24)),
        clip=clip_tensors(clip_file)[0],
    )
    print(f"with the R² block: {time.perf_counter() - began:.0f} s")

    bundle = ship(tmp_path / "r2" / "model.pth", clip_file, sprites, tmp_path / "bundle")
    assert time.perf_counter() - began < 600

    # In a style that neither was trained on, from pixels to moments.
    grounder = Grounder.load(bundle, device="cpu")
    assert grounder.unknown_words("a dog catches a frisbee") == ("catches", "frisbee")
    videos = sample_test_videos("twemoji", 12, sprites, lengths_s=(30.0, 60.0))
    material = prepare(videos, sprites, towers)
    ours = evaluate(BundleAnswerer(grounder), material)
    chance = evaluate(RandomAnswerer(), material)
    print(f"in all: {time.perf_counter() - began:.0f} s\n{ours}\n{chance}")
    assert ours.queries > 40
    # The guess knows how long the moments are, so its spans are no easy ones to beat.
    assert ours.mean_iou > 1.3 * chance.mean_iou
    assert ours.hd_map > 1.25 * chance.hd_map
    assert ours.hd_hit1 > 1.25 * chance.hd_hit1
