"""How well a tiny CLIP names what it sees, by style.

`python -m training.tiny_clip.evaluate --weights FILE --sprites FILE [--each 10] [--json FILE]`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import torch

from r2rt.files import replacing
from training._command import run
from training.tiny_clip.model import TinyClip
from training.tiny_clip.weights import load_model
from training.tiny_clip.zero_shot import (
    Score,
    class_embeddings,
    colour_score,
    compose_test_frames,
    image_embeddings,
    score_images,
)
from training.world.art import STYLES
from training.world.sprites import Sprites

__all__ = ["evaluate_styles"]

_COLOUR_FRAMES = 400


def evaluate_styles(model: TinyClip, sprites: Sprites, each: int) -> dict[str, Score]:
    """Score every style by the text tower, over all concepts, `each` frames a concept.

    Every frame shows one object on a background that was never seen before.
    """
    classes = class_embeddings(model)
    scores = {}
    for style in STYLES:
        size = model.config.image_size
        frames, labels = compose_test_frames(sprites, style, each=each, size=size)
        scores[style] = score_images(image_embeddings(model, frames), classes, labels)
    return scores


_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--weights", type=_FILE, required=True, help="Weights, or a run's checkpoint.pt.")
@click.option("--sprites", type=_FILE, required=True, help="sprites.npz of training.world.art.")
@click.option("--each", default=10, show_default=True, help="Frames a concept.")
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "json_path", type=_FILE, help="Write every figure.")
def command(weights: Path, sprites: Path, each: int, threads: int, json_path: Path | None) -> None:
    """Print shares named right, in percent, by style."""
    torch.set_num_threads(threads)
    model, art = load_model(weights), Sprites(sprites)
    scores = evaluate_styles(model, art, each)
    size = model.config.image_size
    colours = {
        style: colour_score(model, art, style, count=_COLOUR_FRAMES, size=size)
        for style, kind in STYLES.items()
        if kind.role == "held_out"
    }
    click.echo(f"{'style':12} {'role':9} {'top-1':>6} {'top-5':>6} {'frames':>7}")
    for style, score in scores.items():
        click.echo(
            f"{style:12} {STYLES[style].role:9} {100 * score.top1:6.1f} {100 * score.top5:6.1f} "
            f"{score.frames:7}"
        )
    for style, share in colours.items():
        click.echo(f"{style}: right of nine colours {100 * share:.1f} % of {_COLOUR_FRAMES}")
    if json_path is not None:
        found = {
            "styles": {style: asdict(score) for style, score in scores.items()},
            "colours": colours,
        }
        with replacing(json_path) as temporary:
            temporary.write_text(json.dumps(found, indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    name = "python -m training.tiny_clip.evaluate"
    return run(command, name, arguments, cut="nothing was evaluated.")


if __name__ == "__main__":
    sys.exit(main())
