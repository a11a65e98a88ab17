"""The demo model from nothing, in one command: `python -m training.demo.make --out DIR`.

Art, CLIP, scenes, R² block, bundle, figures. Every stage counts steps, not time, so with one seed
the same machine makes the same weights. A stage that is done is not repeated, one that was cut off
goes on from its last checkpoint.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from r2rt.files import replacing
from training._command import run

if TYPE_CHECKING:
    from training.world.photographs import Photographs

__all__ = ["STAGES", "Plan", "main", "make"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what.

    Attributes:
        clip_steps: steps of CLIP's training.
        clip_seed: of CLIP's weights and frames.
        scenes: scenes that are drawn and encoded.
        photographs: share of the backgrounds, of frames and scenes, that are photographs.
        block_steps: steps of the R² block's training.
        block_seed: of its weights and videos.
        videos: test videos a style.
        styles: styles that are evaluated.
        threads: processor threads; other numbers of them may round otherwise.
    """

    clip_steps: int = 13_000
    clip_seed: int = 0
    scenes: int = 14_000
    photographs: float = 0.0
    block_steps: int = 12_000
    block_seed: int = 1
    videos: int = 40
    styles: tuple[str, ...] = ("twemoji", "openmoji", "noto", "fluent-3d")
    threads: int = 2


class _Done(msgspec.Struct, frozen=True):
    """A stage that is done: by which plan, and the seconds it took."""

    plan: Plan
    seconds: float


def art(out: Path, plan: Plan) -> None:
    """Fetch the art by pinned hashes, and rasterise it."""
    from training.world.art import build_sprites
    from training.world.photographs import build_photographs

    _art(out).mkdir(parents=True, exist_ok=True)
    build_sprites(_art(out), _art(out) / "sprites.npz")
    if plan.photographs:
        build_photographs(_art(out), _art(out) / "photographs.npz")


def clip(out: Path, plan: Plan) -> None:
    """Train the tiny CLIP."""
    from training.tiny_clip.train import Settings, train

    settings = Settings(steps=plan.clip_steps, seed=plan.clip_seed)
    train(
        _art(out) / "sprites.npz",
        out / "clip",
        settings,
        resume=True,
        photographs=_photographs(out, plan),
    )


def scenes(out: Path, plan: Plan) -> None:
    """Draw scenes and encode them."""
    from training.demo.clip import load_tiny_clip
    from training.demo.scenes import draw_pool, encode_pool, sample_pool
    from training.demo.settings import POOL_SEED
    from training.world.sprites import Sprites

    towers, sprites = load_tiny_clip(_clip(out)), Sprites(_art(out) / "sprites.npz")
    if not (out / "scenes" / "frames.npy").exists():
        drawn = sample_pool(POOL_SEED, plan.scenes, sprites)
        size = towers.config.image_size
        draw_pool(out / "scenes", drawn, sprites, size, _photographs(out, plan))
    encode_pool(out / "scenes", towers)


def block(out: Path, plan: Plan) -> None:
    """Train the R² block."""
    from training.demo.clip import clip_tensors, load_tiny_clip
    from training.demo.scenes import Pool
    from training.demo.train import Budget, train

    train(
        Pool.open(out / "scenes"),
        load_tiny_clip(_clip(out)),
        out / "block",
        Budget(steps=plan.block_steps),
        clip=clip_tensors(_clip(out))[0],
        seed=plan.block_seed,
        resume=True,
    )


def bundle(out: Path, _plan: Plan) -> None:
    """Export, quantise through the gate, calibrate."""
    from training.demo.ship import ship
    from training.world.sprites import Sprites

    ship(out / "block" / "model.pth", _clip(out), Sprites(_art(out) / "sprites.npz"), _bundle(out))


def card(out: Path, plan: Plan) -> None:
    """Evaluate the bundle and its rivals on new videos, and write the figures into a card."""
    from r2rt.grounding.grounder import Grounder
    from training.demo.answers import Answerer, BundleAnswerer, CosineAnswerer, RandomAnswerer
    from training.demo.clip import clip_tensors, load_tiny_clip
    from training.demo.evaluate import evaluate, prepare, table
    from training.demo.testset import sample_test_videos
    from training.world.sprites import Sprites

    sprites, towers = Sprites(_art(out) / "sprites.npz"), load_tiny_clip(_clip(out))
    rows = {}
    with Grounder.load(_bundle(out).resolve(), device="cpu") as grounder:
        answerers: dict[str, Answerer] = {
            f"bundle ({grounder.bundle.manifest.precision})": BundleAnswerer(grounder),
            "CLIP alone": CosineAnswerer(towers, clip_tensors(_clip(out))[0]),
            "random guess": RandomAnswerer(),
        }
        for style in plan.styles:
            material = prepare(sample_test_videos(style, plan.videos, sprites), sprites, towers)
            rows[style] = {name: evaluate(who, material) for name, who in answerers.items()}
    lines = [
        "# Figures",
        f"CLIP: {plan.clip_steps} steps from nothing, seed {plan.clip_seed}. R² block: "
        f"{plan.block_steps} steps from nothing, seed {plan.block_seed}, on {plan.scenes} scenes. "
        f"{plan.videos} composed videos a style, in percent.",
        "",
        table(rows),
    ]
    with replacing(out / "card.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


STAGES: dict[str, Callable[[Path, Plan], None]] = {
    "art": art,
    "clip": clip,
    "scenes": scenes,
    "block": block,
    "bundle": bundle,
    "card": card,
}
"""The stages by name, in order."""


def make(out: Path, plan: Plan, *, say: Callable[[str], None] = print) -> None:
    """Run every stage that is not done by this plan, and all that come after it."""
    import torch

    torch.set_num_threads(plan.threads)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "stages.json"
    done = msgspec.json.decode(path.read_bytes(), type=dict[str, _Done]) if path.is_file() else {}
    if any(entry.plan != plan for entry in done.values()):
        raise click.UsageError(
            f"{out} was begun with other options; repeat them, or choose another"
        )
    for name, stage in STAGES.items():
        if name in done:
            say(f"{name}: done before, in {done[name].seconds:.0f} s")
            continue
        began = time.monotonic()
        stage(out, plan)
        done[name] = _Done(plan, round(time.monotonic() - began, 1))
        with replacing(path) as temporary:
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(done), indent=1))
        say(f"{name}: {done[name].seconds:.0f} s")
    say(f"{_bundle(out)}; figures in {out / 'card.md'}")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of everything.")
@click.option("--clip-steps", default=Plan().clip_steps, show_default=True, help="Steps of CLIP.")
@click.option("--scenes", default=Plan().scenes, show_default=True, help="Scenes: 0.5 MB each.")
@click.option(
    "--photographs",
    type=click.FloatRange(0, 1),
    default=Plan().photographs,
    show_default=True,
    help="Share of backgrounds that are photographs.",
)
@click.option("--block-steps", default=Plan().block_steps, show_default=True, help="Steps of R².")
@click.option("--clip-seed", default=Plan().clip_seed, show_default=True, help="Seed of CLIP.")
@click.option("--block-seed", default=Plan().block_seed, show_default=True, help="Seed of R².")
@click.option("--threads", default=Plan().threads, show_default=True, help="Processor threads.")
def command(
    out: Path,
    clip_steps: int,
    scenes: int,
    photographs: float,
    block_steps: int,
    clip_seed: int,
    block_seed: int,
    threads: int,
) -> None:
    """Make the demo model from nothing: art, CLIP, scenes, R² block, bundle, figures."""
    make(
        out,
        Plan(
            clip_steps=clip_steps,
            scenes=scenes,
            photographs=photographs,
            block_steps=block_steps,
            clip_seed=clip_seed,
            block_seed=block_seed,
            threads=threads,
        ),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    return run(command, "python -m training.demo.make", arguments, cut="the same command goes on.")


def _art(out: Path) -> Path:
    return out / "art"


def _photographs(out: Path, plan: Plan) -> Photographs | None:
    from training.world.photographs import Photographs

    if not plan.photographs:
        return None
    return Photographs(_art(out) / "photographs.npz", "train", plan.photographs)


def _clip(out: Path) -> Path:
    from training.tiny_clip.weights import WEIGHTS_NAME

    return out / "clip" / "final" / WEIGHTS_NAME


def _bundle(out: Path) -> Path:
    return out / "bundle"


if __name__ == "__main__":
    sys.exit(main())
