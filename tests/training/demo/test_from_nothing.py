"""A miniature of the demo model, from nothing to answers above chance: data, CLIP, R², bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from r2rt.grounding.grounder import Grounder
from tests.golden_data import one_thread
from tests.training.world.toy_art import write_toy_sprites
from training.demo.answers import BundleAnswerer, RandomAnswerer
from training.demo.clip import clip_tensors, load_tiny_clip
from training.demo.evaluate import evaluate, prepare
from training.demo.scenes import Pool, draw_pool, encode_pool, sample_pool
from training.demo.settings import READ
from training.demo.ship import ship
from training.demo.testset import sample_test_videos
from training.demo.train import Budget
from training.demo.train import train as train_block
from training.demo.videos import Shape
from training.tiny_clip.train import Settings
from training.tiny_clip.train import train as train_clip
from training.tiny_clip.weights import WEIGHTS_NAME, load_model
from training.tiny_clip.zero_shot import (
    class_embeddings,
    compose_test_frames,
    image_embeddings,
    score_images,
)
from training.world.sprites import Sprites

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def art(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_sprites(tmp_path_factory.mktemp("art") / "sprites.npz")


@pytest.fixture(scope="module")
def clip(art: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny CLIP after so many steps from nothing, alike on every machine."""
    folder = tmp_path_factory.mktemp("clip")
    settings = Settings(
        steps=100, batch=24, text_from=0.15, average=0.98, evaluate_s=1e9, half=False
    )
    with one_thread():
        train_clip(art, folder, settings)
    return folder


def test_a_short_training_names_an_unseen_style(art: Path, clip: Path) -> None:
    """Far above chance: 8 of 165 concepts are ever shown, 1 in 165 is chance."""
    model = load_model(clip / "final" / WEIGHTS_NAME)
    frames, labels = compose_test_frames(Sprites(art), "twemoji", each=10, size=64)
    score = score_images(image_embeddings(model, frames), class_embeddings(model), labels)
    assert score.frames == 80
    assert score.top1 > 0.3


def test_from_nothing_to_above_chance(art: Path, clip: Path, tmp_path: Path) -> None:
    sprites = Sprites(art)
    clip_file = clip / "checkpoint.pt"
    towers = load_tiny_clip(clip_file)
    draw_pool(tmp_path / "scenes", sample_pool(0, 150, sprites), sprites, 64)
    encode_pool(tmp_path / "scenes", towers)
    train_block(
        Pool.open(tmp_path / "scenes"),
        towers,
        tmp_path / "r2",
        Budget(steps=50, warmup_steps=10, average=0.98, half=False),
        shape=Shape(videos=2, queries=4, absent=1, clips=(8, 16)),
        clip=clip_tensors(clip_file)[0],
    )
    bundle = ship(tmp_path / "r2" / "model.pth", clip_file, sprites, tmp_path / "bundle")

    # In a style that neither was trained on, from pixels to moments.
    grounder = Grounder.load(bundle, device="cpu")
    assert grounder.bundle.dims.read_layers == READ
    assert grounder.unknown_words("a dog catches a frisbee") == ("catches", "frisbee")
    videos = sample_test_videos("twemoji", 12, sprites, lengths_s=(30.0, 60.0))
    material = prepare(videos, sprites, towers)
    ours = evaluate(BundleAnswerer(grounder), material)
    chance = evaluate(RandomAnswerer(), material)
    print(f"{ours}\n{chance}")
    assert ours.queries > 40
    # So few steps teach which clips fit, and not yet where moments begin and end: R1@0.5 and the
    # mean IoU stay near those of a guess that knows how long the moments are. Of 96 queries the
    # share whose best clip fits is known to 4.6 points, so that it decides nothing either.
    assert ours.hd_map > 1.15 * chance.hd_map
