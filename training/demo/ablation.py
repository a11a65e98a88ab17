"""Do CLIP's earlier layers help? The block trained alike on other layers and orders of them.

`python -m training.demo.ablation --scenes DIR --art DIR --clip FILE --out DIR --steps 400`

Every variant is trained with every seed from the same warm start on the same videos for the same
number of steps, and answers the same test videos, which are drawn and encoded once. Each training
that ends prints a line of JSON. Finished trainings are not repeated; one that was cut off goes on.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
import numpy as np

from r2rt.files import replacing
from training._command import run
from training.demo.evaluate import Figures, Material, evaluate, prepare_once
from training.world.claims import KINDS, Kind

if TYPE_CHECKING:
    from torch import Tensor

    from training.clip import ClipTowers
    from training.demo.scenes import Pool

__all__ = ["VARIANTS", "main", "spread_table"]

VARIANTS: dict[str, tuple[int, ...]] = {
    "last four, from the last backwards": (-4, -3, -2, -1),
    "last four, forwards": (-1, -2, -3, -4),
    "last one four times": (-1, -1, -1, -1),
    "last one alone": (-1,),
}
"""Layers, counted from the last, -1, by the variant's name; the one listed last is read first."""

_COSINE = "CLIP alone: cosine, smoothed"
_FILE = click.Path(path_type=Path)


class _Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What all trainings have in common, as the command's options name it."""

    steps: int
    cold: bool
    coarse: bool
    batch_videos: int
    queries: int
    clips: int
    kinds: tuple[Kind, ...]
    styles: tuple[str, ...]
    videos: int
    clip_sha256: str
    sprites_sha256: str


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """A training's figures by style."""

    layers: str
    seed: int
    figures: dict[str, Figures]


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """The trainings and their tests, in `out`."""

    out: Path
    settings: _Settings
    pool: Pool
    towers: ClipTowers
    tensors: Mapping[str, Tensor]
    tests: Mapping[str, list[Material]]

    def result(self, name: str, seed: int) -> _Result:
        """Return a variant's figures; train it where that is not done."""
        from training.demo.answers import ModelAnswerer
        from training.demo.train import Budget, train
        from training.demo.videos import Shape

        chosen = self.settings
        folder = self.out / f"{list(VARIANTS).index(name)}-seed-{seed}"
        file = folder / "result.json"
        if file.is_file():
            return msgspec.json.decode(file.read_bytes(), type=_Result)
        model = train(
            self.pool,
            self.towers,
            folder,
            Budget(steps=chosen.steps),
            shape=Shape(
                videos=chosen.batch_videos,
                queries=chosen.queries,
                clips=(min(Shape().clips[0], chosen.clips), chosen.clips),
                kinds=chosen.kinds,
            ),
            clip=None if chosen.cold else self.tensors,
            read=VARIANTS[name],
            seed=seed,
            resume=True,
        )
        answerer = ModelAnswerer(model, self.towers)
        figures = {style: evaluate(answerer, test) for style, test in self.tests.items()}
        result = _Result(layers=name, seed=seed, figures=figures)
        _write(file, result)
        return result

    def cosine(self) -> dict[str, Figures]:
        """Return the figures of CLIP without a block."""
        from training.demo.answers import CosineAnswerer

        answerer = CosineAnswerer(self.towers, self.tensors)
        return {style: evaluate(answerer, test) for style, test in self.tests.items()}


def _kinds(_context: click.Context, _option: click.Parameter, value: str) -> tuple[Kind, ...]:
    """Return the kinds of queries that an option names."""
    try:
        return msgspec.convert(value.split(","), tuple[Kind, ...])
    except msgspec.ValidationError:
        raise click.BadParameter(f"{value!r} is not a list of {', '.join(KINDS)}") from None


@click.command()
@click.option("--scenes", type=_FILE, required=True, help="Folder of encoded scenes.")
@click.option("--art", type=_FILE, required=True, help="Folder with sprites.npz.")
@click.option("--clip", type=_FILE, required=True, help="The CLIP that encoded the scenes.")
@click.option("--out", type=_FILE, required=True, help="Folder of the trainings and figures.")
@click.option("--steps", type=int, required=True, help="Steps of each training.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Of each variant's trainings.")
@click.option("--cold", is_flag=True, help="Start from random maps, not from CLIP's projections.")
@click.option(
    "--coarse", is_flag=True, help="Average patches two by two, which makes a quarter as many."
)
@click.option("--batch-videos", default=4, show_default=True, help="Videos in a batch.")
@click.option("--queries", default=4, show_default=True, help="True queries of each of them.")
@click.option("--clips", default=75, show_default=True, help="Most clips of a training video.")
@click.option(
    "--kinds",
    default=",".join(KINDS),
    show_default=True,
    callback=_kinds,
    help="Kinds of queries to train with.",
)
@click.option("--styles", default="twemoji,noto", show_default=True, help="Styles to test in.")
@click.option("--videos", default=40, show_default=True, help="Test videos a style.")
@click.option("--threads", default=2, show_default=True, help="Processor threads.")
def command(
    scenes: Path,
    art: Path,
    clip: Path,
    out: Path,
    steps: int,
    seeds: str,
    cold: bool,
    coarse: bool,
    batch_videos: int,
    queries: int,
    clips: int,
    kinds: tuple[Kind, ...],
    styles: str,
    videos: int,
    threads: int,
) -> None:
    """Train and test the block on other layers and orders of them; print means and spreads."""
    import torch

    from training.demo.clip import clip_tensors, load_tiny_clip
    from training.demo.scenes import Pool, averaged_patches
    from training.demo.testset import sample_test_videos
    from training.world.sprites import Sprites

    torch.set_num_threads(threads)
    tensors, clip_sha256 = clip_tensors(clip)
    settings = _Settings(
        steps=steps,
        cold=cold,
        coarse=coarse,
        batch_videos=batch_videos,
        queries=queries,
        clips=clips,
        kinds=kinds,
        styles=tuple(styles.split(",")),
        videos=videos,
        clip_sha256=clip_sha256,
        sprites_sha256=hashlib.sha256((art / "sprites.npz").read_bytes()).hexdigest(),
    )
    towers, sprites = load_tiny_clip(clip), Sprites(art / "sprites.npz")
    pool = Pool.open_coarse(scenes, towers) if coarse else Pool.open(scenes, towers)
    _begin(out, settings)
    tests = {
        style: prepare_once(
            out / f"test-{style}.npz", sample_test_videos(style, videos, sprites), sprites, towers
        )
        for style in settings.styles
    }
    if coarse:
        tests = {
            style: [replace(item, hidden=averaged_patches(item.hidden)) for item in test]
            for style, test in tests.items()
        }
    trial = _Trial(
        out=out,
        settings=settings,
        pool=pool,
        towers=towers,
        tensors=tensors,
        tests=tests,
    )
    rows: dict[str, list[dict[str, Figures]]] = {}
    # Seed by seed, so that what was made before an interruption compares all variants.
    for seed in map(int, seeds.split(",")):
        for name in VARIANTS:
            result = trial.result(name, seed)
            rows.setdefault(name, []).append(result.figures)
            click.echo(msgspec.json.encode(result).decode(), err=True)
    rows[_COSINE] = [trial.cosine()]
    click.echo(spread_table(rows))


def spread_table(rows: Mapping[str, Sequence[Mapping[str, Figures]]]) -> str:
    """Return mean and standard deviation over seeds by variant and style, as a Markdown table."""
    lines = [
        "| layers of CLIP | style | R1@0.5 | R1@0.7 | mAP | HD mAP | R1@0.5 of object | colour "
        "| pair | motion |",
        "|---|---|" + "---|" * 8,
    ]
    for name, by_seed in rows.items():
        for style in by_seed[0]:
            columns = zip(*(_values(figures[style]) for figures in by_seed), strict=True)
            cells = " | ".join(_mean_and_spread(column) for column in columns)
            lines.append(f"| {name} | {style} | {cells} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    name = "python -m training.demo.ablation"
    return run(command, name, arguments, cut="the same command goes on.")


def _begin(out: Path, settings: _Settings) -> None:
    """Write what the trainings have in common; refuse a folder of others."""
    file = out / "settings.json"
    if not file.is_file():
        out.mkdir(parents=True, exist_ok=True)
        _write(file, settings)
    elif msgspec.json.decode(file.read_bytes(), type=_Settings) != settings:
        raise click.UsageError(
            f"{out} was begun with other options, art or CLIP; repeat them, or choose another"
        )


def _values(figures: Figures) -> Iterator[float]:
    yield from (figures.r1_50, figures.r1_70, figures.mean_ap, figures.hd_map)
    for kind in ("object", "colour", "pair", "motion"):
        yield figures.by_kind.get(kind, float("nan"))


def _mean_and_spread(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.1f}"


def _write(file: Path, content: msgspec.Struct) -> None:
    with replacing(file) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
