"""Compose `emoji.mp4` and `emoji.json`: a video of the emoji world, and when what is on screen.

    python demo/make_video.py --art DIR

The art is Twemoji (CC-BY 4.0, Twitter, Inc and other contributors), a style that the demo model was
never trained on; DIR is where `python -m training.world.art --out DIR` put the sprites.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from r2rt.files import replacing
from training.world.claims import spans_of
from training.world.sentences import plain_sentence
from training.world.sprites import Sprites
from training.world.videos import (
    Video,
    VideoSettings,
    sample_queries,
    sample_video,
    write_video,
)

STYLE = "twemoji"
CREDIT = "Pictures: Twemoji, Copyright Twitter, Inc and other contributors, CC-BY 4.0"
DURATION_S = 80.0
# Things that the model knows well in this style, by its own evaluation.
THINGS = (
    "panda",
    "fox",
    "guitar",
    "pizza",
    "rocket",
    "strawberry",
    "dolphin",
    "bus",
    "butterfly",
    "pumpkin",
    "penguin",
    "banana",
    "pufferfish",
    "crab",
    "watermelon",
    "snail",
)
SETTINGS = VideoSettings(things=(0.0, 0.4, 0.45, 0.15), scene_s=(8.0, 16.0), returns=2)


def compose(sprites: Sprites, seed: int) -> tuple[Video, list[dict[str, object]]]:
    """Return the video and its queries, one or two of each kind, with their true times."""
    rng = np.random.default_rng([4_000_000, seed])
    video = sample_video(rng, sprites, STYLE, DURATION_S, SETTINGS, concepts=THINGS)
    queries: list[dict[str, object]] = []
    for query in sample_queries(rng, video, most=6):
        spans = [[round(bound, 1) for bound in span] for span in spans_of(query.claim, video.timed)]
        queries.append({"query": plain_sentence(query.claim), "true_s": spans})
    return video, queries


def main() -> None:
    """Write both files beside this one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--art", type=Path, required=True, help="folder with sprites.npz")
    parser.add_argument("--seed", type=int, default=45)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder to write to"
    )
    arguments = parser.parse_args()
    sprites = Sprites(arguments.art / "sprites.npz")
    video, queries = compose(sprites, arguments.seed)
    write_video(arguments.out / "emoji.mp4", video, sprites, size=320, fps=12, crf=26)
    content = {"video": "emoji.mp4", "credit": CREDIT, "queries": queries}
    with replacing(arguments.out / "emoji.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
