"""A CLIP of a few MB and some videos, to extract features with and of."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from tests.r2rt.video.clips import write_video
from training.clip import openai_name, random_towers
from training.clip_config import ClipConfig

CONFIG = ClipConfig(
    name="small",
    image_size=32,
    patch_size=16,
    vision_width=64,
    vision_layers=4,
    vision_heads=1,
    vision_mlp_width=256,
    text_width=64,
    text_layers=4,
    text_heads=1,
    text_mlp_width=256,
    vocab_size=49408,
)
PATCHES = 5
ANNOTATIONS = """\
{"qid": 1, "video": "v0.mp4", "query": "a dog! runs", "relevant_windows": [[0, 2]]}
{"qid": "two", "video": "v1.mp4", "query": "a cat", "relevant_windows": [[1, 4]]}
{"qid": 3, "video": "v1.mp4", "query": "a bird", "relevant_windows": [[0, 4]]}
"""


def write_clip(path: Path, seed: int = 0) -> Path:
    state = random_towers(CONFIG, seed).state_dict()
    save_file({openai_name(name): tensor for name, tensor in state.items()}, path)
    return path


def write_videos(folder: Path, count: int = 2, frames: int = 100) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        write_video(folder / f"v{index}.mp4", frames=frames + 50 * index)
    return folder
