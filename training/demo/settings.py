"""What the demo model is: clip rate, sizes, seeds."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from training.clip import ClipTowers
from training.model import R2Config
from training.world.art import STYLES
from training.world.videos import VideoSettings

__all__ = [
    "FPS",
    "LAYERS",
    "NAME",
    "POOL_SEED",
    "SCENES",
    "TEST_SEED",
    "TRAIN_STYLES",
    "UNSEEN_STYLES",
    "WINDOW_S",
    "WORLD",
    "Folders",
    "model_config",
]

NAME = "demo"
FPS = Fraction(1, 2)
WINDOW_S = 150.0
LAYERS = 4
# Seeds of the scenes that are trained on, of training itself, and of the test videos.
POOL_SEED, TRAIN_SEED, TEST_SEED = 1_000_000, 1, 2_000_000

TRAIN_STYLES = tuple(style.name for style in STYLES.values() if style.role == "train")
UNSEEN_STYLES = tuple(style.name for style in STYLES.values() if style.role != "train")

WORLD = VideoSettings()
# Scenes are encoded once and put together anew, so they fill whole clips.
SCENES = VideoSettings(grid_s=float(1 / FPS), varied=True)


@dataclass(frozen=True)
class Folders:
    """Where the steps find one another's files.

    Attributes:
        root: folder of the demo model's own files.
        art: holds `sprites.npz` of `training.world.art`.
    """

    root: Path
    art: Path

    @property
    def sprites(self) -> Path:
        """Pictures of all styles."""
        return self.art / "sprites.npz"

    @property
    def pool(self) -> Path:
        """Folder of the scenes to train on."""
        return self.root / "scenes"


def model_config(towers: ClipTowers, *, layers: int = LAYERS) -> R2Config:
    """Return the R² block's sizes on this CLIP."""
    return R2Config(
        width=128,
        layers=layers,
        vision_width=towers.config.vision_width,
        text_width=towers.config.text_width,
        heads=8,
        strides=(1, 2, 4, 8),
        dropout=0.1,
        drop_path=0.1,
    )
