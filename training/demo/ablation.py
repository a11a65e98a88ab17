"""Do CLIP's earlier layers help? The block trained alike on other layers and orders of them.

`python -m training.demo.ablation --scenes DIR --art DIR --clip FILE --out DIR --steps 400`

Every variant is trained with every seed from the same warm start for the same number of steps, and
answers the same test videos. Finished trainings are not repeated; one that was cut off goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import msgspec
import numpy as np

from r2rt.files import replacing
from training._command import run
from training.demo.evaluate import Figures

__all__ = ["VARIANTS", "main", "spread_table"]

VARIANTS: dict[str, tuple[int, ...]] = {
    "last four, from the last backwards": (0, 1, 2, 3),
    "last four, forwards": (3, 2, 1, 0),
    "last one four times": (3, 3, 3, 3),
    "last one alone": (3,),
}
"""Layers among the pool's four by the variant's name; the block reads the rightmost first."""

_COSINE = "CLIP alone: cosine, smoothed"
_FILE = click.Path(path_type=Path)


@click.command()
@click.option("--scenes", type=_FILE, required=True, help="Folder of encoded scenes.")
@click.option("--art", type=_FILE, required=True, help="Folder with sprites.npz.")
@click.option("--clip", type=_FILE, required=True, help="The CLIP that encoded the scenes.")
@click.option("--out", type=_FILE, required=True, help="Folder of the trainings and figures.")
@click.option("--steps", type=int, required=True, help="Steps of each training.")
@click.option("--seeds", default=3, show_default=True, help="Trainings of each variant.")
@click.option("--batch-videos", default=4, show_default=True, help="Videos in a batch.")
@click.option("--queries", default=4, show_default=True, help="True queries of each of them.")
@click.option("--clips", default=75, show_default=True, help="Most clips of a training video.")
@click.option("--styles", default="twemoji,noto", show_default=True, help="Styles to test in.")
@click.option("--videos", default=40, show_default=True, help="Test videos a style.")
@click.option("--threads", default=2, show_default=True, help="Processor threads.")
def command(
    scenes: Path,
    art: Path,
    clip: Path,
    out: Path,
    steps: int,
    seeds: int,
    batch_videos: int,
    queries: int,
    clips: int,
    styles: str,
    videos: int,
    threads: int,
) -> None:
    """Train and test the block on other layers and orders of them; print means and spreads."""
    import torch

    from training.demo.answers import CosineAnswerer, ModelAnswerer
    from training.demo.clip import clip_tensors, load_tiny_clip
    from training.demo.evaluate import evaluate, prepare
    from training.demo.scenes import Pool
    from training.demo.testset import sample_test_videos
    from training.demo.train import Budget, train
    from training.demo.videos import Shape
    from training.world.sprites import Sprites

    torch.set_num_threads(threads)
    towers, tensors = load_tiny_clip(clip), clip_tensors(clip)[0]
    pool, sprites = Pool.open(scenes), Sprites(art / "sprites.npz")
    shape = Shape(videos=batch_videos, queries=queries, clips=(min(Shape().clips[0], clips), clips))
    tests = {
        style: prepare(sample_test_videos(style, videos, sprites), sprites, towers)
        for style in styles.split(",")
    }
    rows: dict[str, list[dict[str, Figures]]] = {}
    # Seed by seed, so that what was made before an interruption compares all variants.
    for seed in range(seeds):
        for place, (name, layers) in enumerate(VARIANTS.items()):
            folder = out / f"{place}-seed-{seed}"
            file = folder / "figures.json"
            if not file.is_file():
                budget = Budget(steps=steps)
                model = train(
                    pool,
                    towers,
                    folder,
                    budget,
                    shape=shape,
                    clip=tensors,
                    layer_order=layers,
                    seed=seed,
                    resume=True,
                )
                answerer = ModelAnswerer(model, towers, layers)
                _write(file, {style: evaluate(answerer, tests[style]) for style in tests})
            rows.setdefault(name, []).append(_read(file))
            click.echo(f"{name}, seed {seed}: {file}", err=True)
    cosine = CosineAnswerer(towers, tensors)
    rows[_COSINE] = [{style: evaluate(cosine, tests[style]) for style in tests}]
    click.echo(spread_table(rows))


def spread_table(rows: Mapping[str, Sequence[Mapping[str, Figures]]]) -> str:
    """Return mean and standard deviation over seeds by variant and style, as a Markdown table."""
    lines = [
        "| layers of CLIP | style | R1@0.5 | R1@0.7 | mAP | R1@0.5 of object | colour | pair "
        "| motion |",
        "|---|---|" + "---|" * 7,
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


def _values(figures: Figures) -> Iterator[float]:
    yield from (figures.r1_50, figures.r1_70, figures.mean_ap)
    for kind in ("object", "colour", "pair", "motion"):
        yield figures.by_kind.get(kind, float("nan"))


def _mean_and_spread(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.1f}"


def _write(file: Path, figures: Mapping[str, Figures]) -> None:
    with replacing(file) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")


def _read(file: Path) -> dict[str, Figures]:
    return msgspec.json.decode(file.read_bytes(), type=dict[str, Figures])


if __name__ == "__main__":
    sys.exit(main())
