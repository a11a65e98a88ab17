"""The demo model from nothing, in one command: `python -m training.demo.make --out DIR`.

Art, CLIP, scenes, R² block, bundle, figures. Every stage counts steps, not time, so with one seed
the same machine makes the same weights. A stage that is done is not repeated, one that was cut off
goes on from its last checkpoint.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from r2rt.files import replacing
from training._command import run

if TYPE_CHECKING:
    from training.world.photographs import Photographs

__all__ = ["STAGES", "Plan", "main", "make"]

# Seconds between evaluations of CLIP, which are for its log alone.
_EVALUATE_S = 900


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what.

    Attributes:
        clip_steps: steps that CLIP's training from nothing is laid out for.
        clip_stop: the step after which it ends, 0 for `clip_steps`; see `Settings.stop` there.
        clip_again: steps that its second training, from the weights of the first, is laid out for.
        clip_again_stop: the step after which that ends, 0 for `clip_again`.
        clip_seed: of CLIP's weights and frames; the second training has the next one.
        scenes: scenes that are drawn and encoded.
        photographs: share of the backgrounds, of frames and scenes, that are photographs.
        block_steps: steps of the R² block's training.
        block_alone: so many of them, the first, ask each video its own queries alone.
        block_again: steps of its second training, from the weights of the first; 0 for none.
        block_seed: of its weights and videos; the second training has the next one.
        videos: test videos a style.
        styles: styles that are evaluated.
        threads: processor threads; other numbers of them may round otherwise.
    """

    clip_steps: int = 14_500
    clip_stop: int = 10_000
    clip_again: int = 10_000
    clip_again_stop: int = 8_000
    clip_seed: int = 0
    scenes: int = 14_000
    photographs: float = 0.25
    block_steps: int = 9_000
    block_alone: int = 7_000
    block_again: int = 6_000
    block_seed: int = 1
    videos: int = 40
    styles: tuple[str, ...] = ("twemoji", "openmoji", "noto", "fluent-3d")
    threads: int = 2


class _Stage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stage that was run.

    Attributes:
        options: of it and of those before it.
        seconds: all of its parts took together.
        finished: False if it was interrupted.
    """

    options: dict[str, Any]
    seconds: float
    finished: bool = True


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
    write_compact(out / "clip" / "final" / WEIGHTS_NAME, _first_clip(out), _options("clip", plan))


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
        init=_first_clip(out),
        resume=True,
        photographs=_photographs(out, plan),
    )
    _clip(out).parent.mkdir(exist_ok=True)
    write_compact(
        out / "clip-again" / "final" / WEIGHTS_NAME, _clip(out), _options("clip-again", plan)
    )


def scenes(out: Path, plan: Plan) -> None:
    """Draw scenes and encode them."""
    from training.demo.clip import load_tiny_clip
    from training.demo.scenes import draw_pool, encode_pool, is_drawn, sample_pool
    from training.demo.settings import POOL_SEED
    from training.world.sprites import Sprites

    towers, sprites = load_tiny_clip(_clip(out)), Sprites(_art(out) / "sprites.npz")
    if not is_drawn(out / "scenes", plan.scenes):
        drawn = sample_pool(POOL_SEED, plan.scenes, sprites)
        size = towers.config.image_size
        draw_pool(out / "scenes", drawn, sprites, size, _photographs(out, plan))
    encode_pool(out / "scenes", towers)


def block(out: Path, plan: Plan) -> None:
    """Train the R² block."""
    from training.demo.clip import clip_tensors, load_tiny_clip
    from training.demo.scenes import Pool
    from training.demo.train import Budget, train

    towers = load_tiny_clip(_clip(out))
    train(
        Pool.open(out / "scenes", towers),
        towers,
        out / "block",
        Budget(steps=plan.block_steps, alone=plan.block_alone),
        coarse=Pool.open_coarse(out / "scenes", towers) if plan.block_alone else None,
        clip=clip_tensors(_clip(out))[0],
        seed=plan.block_seed,
        resume=True,
    )


def block_again(out: Path, plan: Plan) -> None:
    """Train it on, all videos with the queries of all; these weights are shipped."""
    from training.demo.clip import load_tiny_clip
    from training.demo.scenes import Pool
    from training.demo.train import Budget, train

    trained = out / "block"
    if plan.block_again:
        towers = load_tiny_clip(_clip(out))
        trained = out / "block-again"
        train(
            Pool.open(out / "scenes", towers),
            towers,
            trained,
            Budget(steps=plan.block_again),
            init=out / "block" / "model.pth",
            seed=plan.block_seed + 1,
            resume=True,
        )
    with replacing(_block(out)) as temporary:
        shutil.copyfile(trained / "model.pth", temporary)


def bundle(out: Path, _plan: Plan) -> None:
    """Export, quantise through the gate, calibrate."""
    from training.demo.ship import ship
    from training.world.sprites import Sprites

    ship(_block(out), _clip(out), Sprites(_art(out) / "sprites.npz"), _bundle(out))


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

    sprites, towers = Sprites(_art(out) / "sprites.npz"), load_tiny_clip(_clip(out))
    held_out = Photographs(_art(out) / "photographs.npz", "held_out")
    rows = {}
    with Grounder.load(_bundle(out).resolve(), device="cpu") as grounder:
        ours = {f"bundle ({grounder.bundle.manifest.precision})": BundleAnswerer(grounder)}
        model = load_model(_block(out), towers)
        everyone: dict[str, Answerer] = {
            **ours,
            "the same in fp32": ModelAnswerer(model, towers),
            "CLIP alone": CosineAnswerer(towers, clip_tensors(_clip(out))[0]),
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
        f"{100 * plan.photographs:.0f} % of the backgrounds are photographs. R² block: "
        f"{plan.block_steps} steps from nothing, the first {plan.block_alone} with each video's "
        f"own queries alone, seed {plan.block_seed}, and {plan.block_again} more, seed "
        f"{plan.block_seed + 1}, on {plan.scenes} scenes. {plan.videos} composed videos a style, "
        "on drawn backgrounds and on photographs that were held out; in percent.",
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
    "bundle": bundle,
    "card": card,
}
"""The stages by name, in order."""

# What each of them depends on, besides what those before it do.
_OPTIONS = {
    "art": (),
    "clip": ("clip_steps", "clip_stop", "clip_seed", "photographs", "threads"),
    "clip-again": ("clip_again", "clip_again_stop"),
    "scenes": ("scenes",),
    "block": ("block_steps", "block_alone", "block_seed"),
    "block-again": ("block_again",),
    "bundle": (),
    "card": ("videos", "styles"),
}
# What a stage that was cut off leaves in its folder to go on from, and the options that it then
# must keep; others may still be chosen, such as a training's end.
_LEFT = {
    **dict.fromkeys(("clip", "clip-again", "block", "block-again"), "checkpoint.pt"),
    "scenes": "frames.npy",
}
_KEPT = ("clip_seed", "photographs", "threads", "scenes", "block_seed")


def make(
    out: Path,
    plan: Plan,
    *,
    trained_clip: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run every stage that is not done, in order.

    Args:
        out: folder of everything.
        plan: how much of what.
        trained_clip: CLIP's weights of another run with the same options, after its first or its
            second training, which then is not repeated.
        say: called with a line for each stage.

    Raises:
        click.UsageError: a stage was done, or begun and not to be gone on with, with other options.
        ClipError: `trained_clip` is no file of CLIP's weights.
    """
    import torch

    torch.set_num_threads(plan.threads)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "stages.json"
    ran = msgspec.json.decode(path.read_bytes(), type=dict[str, _Stage]) if path.is_file() else {}
    for name in ran:
        if ran[name].finished and ran[name].options != _options(name, plan):
            raise click.UsageError(
                f"{name} in {out} was made with other options; repeat them, or choose another "
                "folder"
            )
    if trained_clip is not None:
        _take(trained_clip, out, plan, ran)
    for name, stage in STAGES.items():
        before = ran.get(name)
        if before is not None and before.finished:
            say(f"{name}: done before, in {before.seconds:.0f} s")
            continue
        if before is not None:
            _check_begun(name, before, out, plan)
        # The checkpoint knows of a part that was killed.
        earlier_s = max(before.seconds if before is not None else 0.0, _checkpoint_s(out / name))
        began, finished = time.monotonic(), False
        # Who is killed writes nothing any more.
        ran[name] = _Stage(_options(name, plan), round(earlier_s, 1), finished)
        _write_stages(path, ran)
        try:
            stage(out, plan)
            finished = True
        finally:
            seconds = round(earlier_s + time.monotonic() - began, 1)
            ran[name] = _Stage(_options(name, plan), seconds, finished)
            _write_stages(path, ran)
        say(f"{name}: {seconds:.0f} s")
    say(f"{_bundle(out)}; figures in {out / 'card.md'}")


def _check_begun(name: str, begun: _Stage, out: Path, plan: Plan) -> None:
    """Refuse to go on with what a stage left that was begun with another seed or other data."""
    if name not in _LEFT or not (out / name / _LEFT[name]).exists():
        return
    now = _options(name, plan)
    for option in _KEPT:
        if option in now and begun.options.get(option) != now[option]:
            raise click.UsageError(
                f"{name} in {out} was begun with --{option.replace('_', '-')} "
                f"{begun.options.get(option)}, not {now[option]}; repeat it, or choose another "
                "folder"
            )


def _write_stages(path: Path, ran: dict[str, _Stage]) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(ran), indent=1))


def _take(weights: Path, out: Path, plan: Plan, ran: dict[str, _Stage]) -> None:
    """Put CLIP's weights of another run where a stage would have, and count it as done."""
    from training.tiny_clip.weights import read_made

    made = read_made(weights)
    for names, place in ((("clip", "clip-again"), _clip(out)), (("clip",), _first_clip(out))):
        if made == _options(names[-1], plan):
            place.parent.mkdir(exist_ok=True)
            if weights.resolve() != place.resolve():
                with replacing(place) as temporary:
                    shutil.copyfile(weights, temporary)
            for name in names:
                if name not in ran or not ran[name].finished:
                    ran[name] = _Stage(_options(name, plan), 0.0)
            return
    raise click.UsageError(f"{weights} was made with other options than these")


def _checkpoint_s(folder: Path) -> float:
    """Return how long a training had run when it wrote its checkpoint, 0 without one."""
    import torch

    path = folder / "checkpoint.pt"
    return float(torch.load(path, weights_only=True)["elapsed_s"]) if path.is_file() else 0.0


def _options(name: str, plan: Plan) -> dict[str, Any]:
    """Return what a stage and those before it depend on."""
    whole: dict[str, Any] = msgspec.to_builtins(plan)
    stages = list(STAGES)
    before = stages[: stages.index(name) + 1]
    return {option: whole[option] for stage in before for option in _OPTIONS[stage]}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of everything.")
@click.option("--clip-steps", default=Plan().clip_steps, show_default=True, help="Steps of CLIP.")
@click.option(
    "--clip-stop",
    default=Plan().clip_stop,
    show_default=True,
    help="The step after which CLIP's training ends; 0 for --clip-steps.",
)
@click.option(
    "--clip-again",
    default=Plan().clip_again,
    show_default=True,
    help="Steps of CLIP's second training.",
)
@click.option(
    "--clip-again-stop",
    default=Plan().clip_again_stop,
    show_default=True,
    help="The step after which it ends; 0 for --clip-again.",
)
@click.option(
    "--clip",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="r2rt-tiny.safetensors of another run with the same options, from which to go on.",
)
@click.option("--scenes", default=Plan().scenes, show_default=True, help="Scenes: 0.5 MB each.")
@click.option(
    "--photographs",
    type=click.FloatRange(0, 1),
    default=Plan().photographs,
    show_default=True,
    help="Share of backgrounds that are photographs.",
)
@click.option("--block-steps", default=Plan().block_steps, show_default=True, help="Steps of R².")
@click.option(
    "--block-alone",
    default=Plan().block_alone,
    show_default=True,
    help="Of them, steps in which videos are asked their own queries alone.",
)
@click.option(
    "--block-again",
    default=Plan().block_again,
    show_default=True,
    help="Steps of a second training of R², from the weights of the first.",
)
@click.option("--clip-seed", default=Plan().clip_seed, show_default=True, help="Seed of CLIP.")
@click.option("--block-seed", default=Plan().block_seed, show_default=True, help="Seed of R².")
@click.option("--threads", default=Plan().threads, show_default=True, help="Processor threads.")
def command(
    out: Path,
    clip_steps: int,
    clip_stop: int,
    clip_again: int,
    clip_again_stop: int,
    clip: Path | None,
    scenes: int,
    photographs: float,
    block_steps: int,
    block_alone: int,
    block_again: int,
    clip_seed: int,
    block_seed: int,
    threads: int,
) -> None:
    """Make the demo model from nothing: art, CLIP, scenes, R² block, bundle, figures."""
    make(
        out,
        Plan(
            clip_steps=clip_steps,
            clip_stop=clip_stop,
            clip_again=clip_again,
            clip_again_stop=clip_again_stop,
            scenes=scenes,
            photographs=photographs,
            block_steps=block_steps,
            block_alone=block_alone,
            block_again=block_again,
            clip_seed=clip_seed,
            block_seed=block_seed,
            threads=threads,
        ),
        trained_clip=clip,
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


def _first_clip(out: Path) -> Path:
    from training.tiny_clip.weights import WEIGHTS_NAME

    return out / "clip" / WEIGHTS_NAME


def _clip(out: Path) -> Path:
    from training.tiny_clip.weights import WEIGHTS_NAME

    return out / "weights" / WEIGHTS_NAME


def _block(out: Path) -> Path:
    return out / "weights" / "r2.pth"


def _bundle(out: Path) -> Path:
    return out / "bundle"


if __name__ == "__main__":
    sys.exit(main())
