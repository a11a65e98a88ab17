"""Export `random-tiny`: a bundle of the real architecture, a few MB small, with random weights.

    python demo/make_random_bundle.py demo/random-tiny

It shows that everything runs and stands in for a model in tests; its answers mean nothing.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from export.exporter import export_bundle
from training.clip import ClipConfig, random_towers
from training.model import R2Config, R2Tuning

SEED = 0
CLIP = ClipConfig(
    name="random-tiny",
    image_size=64,
    patch_size=16,
    vision_width=64,
    vision_layers=5,
    vision_heads=2,
    vision_mlp_width=128,
    text_width=16,
    text_layers=4,
    text_heads=2,
    text_mlp_width=32,
    embed_width=24,
    weights_source=f"random:{SEED}",
)


def random_model() -> R2Tuning:
    """Return an R² block and heads whose every parameter differs from zero."""
    torch.manual_seed(SEED)
    model = R2Tuning(
        R2Config(
            width=64,
            layers=4,
            vision_width=CLIP.vision_width,
            text_width=CLIP.text_width,
            heads=8,
            strides=(1, 2, 4, 8),
            use_tef=True,
            has_offsets=True,
            merge_cls_sal=True,
        )
    )
    with torch.no_grad():
        # Gates, scales, biases and norms start at constants that would hide a mistake.
        for parameter in model.parameters():
            if bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(torch.rand_like(parameter) - 0.5)
    return model.eval()


def main(output: str) -> None:
    """Write the bundle."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "random-tiny.pth"
        torch.save({"meta": {}, "state_dict": random_model().state_dict()}, checkpoint)
        export_bundle(
            checkpoint,
            output,
            clip=random_towers(CLIP, SEED),
            name="random-tiny",
            recipe="qvhighlights",
            force=True,
        )


if __name__ == "__main__":
    main(sys.argv[1])
