"""What makes the demo model: art, CLIP, scenes, R² block, bundle, figures.

`training.demo.make` runs these stages one after another and remembers which are done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from r2rt.files import replacing

if TYPE_CHECKING:
    from training.demo.train import Budget
    from training.world.photographs import Photographs

__all__ = ["KEPT", "LEFT", "STAGES", "Plan", "bundle_of", "clip_of", "first_clip_of", "options_of"]

# Seconds between evaluations of CLIP, which are for its log alone.
_EVALUATE_S = 900
# Peak learning rate of the block's last training.
_LAST_RATE = 5e-4


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what.

    Attributes:
        clip_steps: steps that CLIP's training from nothing is laid out for.
        clip_stop: the step after which it ends, 0 for `clip_steps`; see `Settings.stop` there.
        clip_again: steps that its second training, from the weights of the first, is laid out for.
        clip_again_stop: the step after which that ends, 0 for `clip_again`.
        motion_words: length of the embeddings that its words of motion are given in the end; see
            `training.tiny_clip.weights.write_compact`.
        clip_seed: of CLIP's weights and frames; the second training has the next one.
        scenes: scenes that are drawn and encoded.
        photographs: share of the backgrounds, of frames and scenes, that are photographs.
        block_steps: steps of the R² block's training.
        block_alone: so many of them, the first, ask each video its own queries alone.
        block_again: steps of its second training, from the weights of the first; 0 for none.
        block_again_alone: of these, the first, likewise.
        block_last: steps of its last training, from those weights at half the rate; 0 for none.
        block_last_alone: of these, the first, likewise.
        block_seed: of its weights and videos; the other trainings have the next ones.
        videos: test videos a style.
        styles: styles that are evaluated.
        threads: processor threads; other numbers of them may round otherwise.
    """

    clip_steps: int = 14_500
    clip_stop: int = 10_000
    clip_again: int = 10_000
    clip_again_stop: int = 8_000
    motion_words: float = 4.0
    clip_seed: int = 0
    scenes: int = 14_000
    photographs: float = 0.25
    block_steps: int = 5_600
    block_alone: int = 2_800
    block_again: int = 7_600
    block_again_alone: int = 4_800
    block_last: int = 3_000
    block_last_alone: int = 1_800
    block_seed: int = 1
    videos: int = 40
    styles: tuple[str, ...] = ("twemoji", "openmoji", "noto", "fluent-3d")
    threads: int = 2


def art(out: Path, _plan: Plan) -> None:
    """Fetch the art by pinned hashes, and rasterise it."""
    from training.world.art import build_sprites
    from training.world.photographs import build_photographs

    _art(out).mkdir(parents=True, exist_ok=True)
    build_sprites(_art(out), _art(out) / "sprites.npz")
    build_photographs(_art(out), _art(out) / "photographs.npz")


def clip(out: Path, plan: Plan) -> None:
    """Train the tiny CLIP from nothing."""
    from training.tiny_clip.train import Settings, train
    from training.tiny_clip.weights import WEIGHTS_NAME, write_compact

    settings = Settings(
        steps=plan.clip_steps, stop=plan.clip_stop, seed=plan.clip_seed, evaluate_s=_EVALUATE_S
    )
    train(
        _art(out) / "sprites.npz",
        out / "clip",
        settings,
        resume=True,
        photographs=_photographs(out, plan),
    )
    write_compact(
        out / "clip" / "final" / WEIGHTS_NAME, first_clip_of(out), options_of("clip", plan)
    )


def clip_again(out: Path, plan: Plan) -> None:
    """Train it on; everything after stands on its weights as they are shipped."""
    from training.tiny_clip.train import Settings, train
    from training.tiny_clip.weights import WEIGHTS_NAME, write_compact

    train(
        _art(out) / "sprites.npz",
        out / "clip-again",
        Settings(
            steps=plan.clip_again,
            stop=plan.clip_again_stop,
            seed=plan.clip_seed + 1,
            rate=1e-3,
            evaluate_s=_EVALUATE_S,
        ),
        init=first_clip_of(out),
        resume=True,
        photographs=_photographs(out, plan),
    )
    clip_of(out).parent.mkdir(exist_ok=True)
    write_compact(
        out / "clip-again" / "final" / WEIGHTS_NAME,
        clip_of(out),
        options_of("clip-again", plan),
        motion_words=plan.motion_words,
    )


def scenes(out: Path, plan: Plan) -> None:
    """Draw scenes and encode them."""
    from training.demo.clip import load_tiny_clip
    from training.demo.scenes import draw_pool, encode_pool, is_drawn, sample_pool
    from training.demo.settings import POOL_SEED
    from training.world.sprites import Sprites

    folder, towers = out / "scenes", load_tiny_clip(clip_of(out))
    if not is_drawn(folder, plan.scenes):
        sprites = Sprites(_art(out) / "sprites.npz")
        drawn = sample_pool(POOL_SEED, plan.scenes, sprites)
        draw_pool(folder, drawn, sprites, towers.config.image_size, _photographs(out, plan))
    encode_pool(folder, towers)


def block(out: Path, plan: Plan) -> None:
    """Train the R² block."""
    from training.demo.clip import clip_tensors, load_tiny_clip
    from training.demo.scenes import Pool
    from training.demo.train import Budget, train

    towers = load_tiny_clip(clip_of(out))
    train(
        Pool.open(out / "scenes", towers),
        towers,
        out / "block",
        Budget(steps=plan.block_steps, alone=plan.block_alone),
        clip=clip_tensors(clip_of(out))[0],
        seed=plan.block_seed,
        resume=True,
    )


def block_again(out: Path, plan: Plan) -> None:
    """Train it on."""
    from training.demo.train import Budget

    if plan.block_again:
        budget = Budget(steps=plan.block_again, alone=plan.block_again_alone)
        _train_on(out, "block", "block-again", budget, plan.block_seed + 1)


def block_last(out: Path, plan: Plan) -> None:
    """Train it once more, at half the rate; the bundle has these weights."""
    from training.demo.train import Budget

    trained = "block-again" if plan.block_again else "block"
    if plan.block_last:
        budget = Budget(steps=plan.block_last, alone=plan.block_last_alone, lr=_LAST_RATE)
        _train_on(out, trained, "block-last", budget, plan.block_seed + 2)
        trained = "block-last"
    with replacing(_block(out)) as temporary:
        shutil.copyfile(out / trained / "model.pth", temporary)


def _train_on(out: Path, first: str, name: str, budget: Budget, seed: int) -> None:
    """Train the block on from where an earlier stage left it."""
    from training.demo.clip import load_tiny_clip
    from training.demo.scenes import Pool
    from training.demo.train import train

    towers = load_tiny_clip(clip_of(out))
    train(
        Pool.open(out / "scenes", towers),
        towers,
        out / name,
        budget,
        init=out / first / "checkpoint.pt",
        seed=seed,
        resume=True,
    )


def bundle(out: Path, _plan: Plan) -> None:
    """Export, quantise through the gate, calibrate."""
    from training.demo.ship import ship
    from training.world.sprites import Sprites

    ship(_block(out), clip_of(out), Sprites(_art(out) / "sprites.npz"), bundle_of(out))


def card(out: Path, plan: Plan) -> None:
    """Evaluate the bundle and its rivals on new videos, and write the figures into a card."""
    from r2rt.grounding.grounder import Grounder
    from training.demo.answers import (
        Answerer,
        BundleAnswerer,
        CosineAnswerer,
        ModelAnswerer,
        RandomAnswerer,
    )
    from training.demo.clip import clip_tensors, load_tiny_clip
    from training.demo.evaluate import evaluate, load_model, prepare, table
    from training.demo.testset import sample_test_videos
    from training.world.photographs import Photographs
    from training.world.sprites import Sprites

    sprites, towers = Sprites(_art(out) / "sprites.npz"), load_tiny_clip(clip_of(out))
    held_out = Photographs(_art(out) / "photographs.npz", "held_out")
    rows = {}
    with Grounder.load(bundle_of(out).resolve(), device="cpu") as grounder:
        ours = {f"bundle ({grounder.bundle.manifest.precision})": BundleAnswerer(grounder)}
        model = load_model(_block(out), towers)
        everyone: dict[str, Answerer] = {
            **ours,
            "the same in fp32": ModelAnswerer(model, towers),
            "CLIP alone": CosineAnswerer(towers, clip_tensors(clip_of(out))[0]),
            "random guess": RandomAnswerer(),
        }
        for style in plan.styles:
            videos = sample_test_videos(style, plan.videos, sprites)
            material = prepare(videos, sprites, towers)
            rows[style] = {name: evaluate(who, material) for name, who in everyone.items()}
            material = prepare(videos, sprites, towers, held_out)
            rows[f"{style}, photographs"] = {
                name: evaluate(who, material) for name, who in ours.items()
            }
    lines = [
        "# Figures",
        f"CLIP: {plan.clip_stop or plan.clip_steps} steps from nothing, seed {plan.clip_seed}, and "
        f"{plan.clip_again_stop or plan.clip_again} more, seed {plan.clip_seed + 1}; "
        f"{100 * plan.photographs:.0f} % of the backgrounds are photographs. R² block, on "
        f"{plan.scenes} scenes: three trainings of {plan.block_steps}, {plan.block_again} and "
        f"{plan.block_last} steps, of which the first {plan.block_alone}, "
        f"{plan.block_again_alone} and {plan.block_last_alone} ask each video its own queries "
        f"alone, seeds {plan.block_seed}, {plan.block_seed + 1} and {plan.block_seed + 2}. "
        f"{plan.videos} composed videos a style, on drawn backgrounds and on photographs that were "
        "held out; in percent.",
        "",
        table(rows),
    ]
    with replacing(out / "card.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


STAGES: dict[str, Callable[[Path, Plan], None]] = {
    "art": art,
    "clip": clip,
    "clip-again": clip_again,
    "scenes": scenes,
    "block": block,
    "block-again": block_again,
    "block-last": block_last,
    "bundle": bundle,
    "card": card,
}
"""The stages by name, in order."""

# What each of them depends on, besides what those before it do.
_OPTIONS = {
    "art": (),
    "clip": ("clip_steps", "clip_stop", "clip_seed", "photographs", "threads"),
    "clip-again": ("clip_again", "clip_again_stop", "motion_words"),
    "scenes": ("scenes",),
    "block": ("block_steps", "block_alone", "block_seed"),
    "block-again": ("block_again", "block_again_alone"),
    "block-last": ("block_last", "block_last_alone"),
    "bundle": (),
    "card": ("videos", "styles"),
}
LEFT = {
    **dict.fromkeys(("clip", "clip-again", "block", "block-again", "block-last"), "checkpoint.pt"),
    "scenes": "frames.npy",
}
"""What a stage that was cut off leaves in its folder to go on from."""
KEPT = ("clip_seed", "photographs", "threads", "scenes", "block_seed")
"""Options that it then must keep; others may still be chosen, such as a training's end."""


def options_of(name: str, plan: Plan) -> dict[str, Any]:
    """Return what a stage and those before it depend on."""
    # As `stages.json` holds them, which knows no tuples.
    whole: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(plan))
    stages = list(STAGES)
    before = stages[: stages.index(name) + 1]
    return {option: whole[option] for stage in before for option in _OPTIONS[stage]}


def _art(out: Path) -> Path:
    return out / "art"


def _photographs(out: Path, plan: Plan) -> Photographs | None:
    from training.world.photographs import Photographs

    if not plan.photographs:
        return None
    return Photographs(_art(out) / "photographs.npz", "train", plan.photographs)


def first_clip_of(out: Path) -> Path:
    """Return the file of CLIP's weights after its first training."""
    from training.tiny_clip.weights import WEIGHTS_NAME

    return out / "clip" / WEIGHTS_NAME


def clip_of(out: Path) -> Path:
    """Return the file of CLIP's weights as they are shipped."""
    from training.tiny_clip.weights import WEIGHTS_NAME

    return out / "weights" / WEIGHTS_NAME


def bundle_of(out: Path) -> Path:
    """Return the folder of the bundle."""
    return out / "bundle"


def _block(out: Path) -> Path:
    return out / "weights" / "r2.pth"
