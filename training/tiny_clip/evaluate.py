"""How well a tiny CLIP names what it sees, by style.

`python -m training.tiny_clip.evaluate --weights FILE --sprites FILE [--each 10] [--json FILE]`
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from r2rt.files import replacing
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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="safetensors or checkpoint.pt")
    parser.add_argument("--sprites", type=Path, required=True, help="sprites.npz of world.art")
    parser.add_argument("--each", type=int, default=10, help="frames a concept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, sprites = load_model(arguments.weights), Sprites(arguments.sprites)
    scores = evaluate_styles(model, sprites, arguments.each)
    colours = {
        style: colour_score(model, sprites, style, count=_COLOUR_FRAMES, size=64)
        for style, kind in STYLES.items()
        if kind.role == "held_out"
    }
    print(f"{'style':12} {'role':9} {'top-1':>6} {'top-5':>6} {'frames':>7}")
    for style, score in scores.items():
        print(
            f"{style:12} {STYLES[style].role:9} {100 * score.top1:6.1f} {100 * score.top5:6.1f} "
            f"{score.frames:7}"
        )
    for style, share in colours.items():
        print(f"{style}: the right one of nine colours {100 * share:.1f} % of {_COLOUR_FRAMES}")
    if arguments.json is not None:
        found = {
            "styles": {style: asdict(score) for style, score in scores.items()},
            "colours": colours,
        }
        with replacing(arguments.json) as temporary:
            temporary.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
