"""What the demo model is: clip rate, sizes, seeds."""

from __future__ import annotations

from fractions import Fraction

from r2rt.model.manifest import Nms
from training.clip import ClipTowers
from training.losses import LossWeights
from training.model import R2Config
from training.recipes import Recipe
from training.world.art import STYLES
from training.world.videos import VideoSettings

__all__ = [
    "FPS",
    "LAYERS",
    "NAME",
    "POOL_SEED",
    "READ",
    "RECIPE",
    "SCENES",
    "TEST_SEED",
    "TEST_VIDEOS",
    "TRAIN_SEED",
    "TRAIN_STYLES",
    "UNSEEN_STYLES",
    "WINDOW_S",
    "WORLD",
    "model_config",
]

NAME = "demo"
FPS = Fraction(1, 2)
WINDOW_S = 150.0
# Last layers of CLIP that scenes are stored with, and those that the block reads, the one listed
# last first; published models read them the other way round.
LAYERS = 4
READ = (-1, -2, -3, -4)
# Seeds of the scenes that are trained on, of training itself, and of the test videos.
POOL_SEED, TRAIN_SEED, TEST_SEED = 1_000_000, 1, 2_000_000

# Test videos a style, as the card of the model says.
TEST_VIDEOS = 40

TRAIN_STYLES = tuple(style.name for style in STYLES.values() if style.role == "train")
UNSEEN_STYLES = tuple(style.name for style in STYLES.values() if style.role != "train")

WORLD = VideoSettings()
# Scenes are encoded once and put together anew, so they fill whole clips.
SCENES = VideoSettings(grid_s=float(1 / FPS), varied=True)


# What the bundle says of itself; of training, `training.demo.train` decides.
RECIPE = Recipe(
    name=NAME,
    dataset="emoji-world",
    fps=FPS,
    window_s=WINDOW_S,
    nms=Nms(kind="normal", iou_threshold=0.7),
    dropout=0.0,
    # Of the published weights but for the class head's: in so short a training it needs more.
    loss_weights=LossWeights(cls=4.0),
    lr=1e-3,
)


def model_config(towers: ClipTowers, *, read: tuple[int, ...] = READ) -> R2Config:
    """Return the R² block's sizes on this CLIP."""
    return R2Config(
        width=128,
        layers=len(read),
        read_layers=read,
        vision_width=towers.config.vision_width,
        text_width=towers.config.text_width,
        heads=8,
        strides=(1, 2, 4, 8),
        dropout=0.0,
        drop_path=0.1,
    )
