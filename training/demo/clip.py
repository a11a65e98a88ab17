"""The tiny CLIP as the towers that the R² block stands on."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from training.clip import ClipError, ClipTowers, towers_from_state_dict
from training.clip_weights import SUFFIXES
from training.tiny_clip.model import TinyClip, tiny_config
from training.tiny_clip.weights import read_tensors

__all__ = ["clip_tensors", "load_tiny_clip"]


def load_tiny_clip(path: Path) -> ClipTowers:
    """Read the tiny CLIP from its weights in open_clip's names, or from a training's checkpoint.

    Raises:
        ClipError: there is no such file, or it holds something else.
    """
    tensors, sha256 = clip_tensors(path)
    config = replace(
        tiny_config(), weights_source=f"r2rt-tiny ({path.name})", weights_sha256=sha256
    )
    return towers_from_state_dict(config, tensors)


def clip_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return all tensors by open_clip's names, the projections among them, and the file's sha256.

    Raises:
        ClipError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ClipError(f"{path} is no file; train a tiny CLIP with training.tiny_clip.train first")
    if path.name == "checkpoint.pt":
        state = torch.load(path, weights_only=True)
        model = TinyClip()
        model.load_state_dict(state["average"])
        return model.open_clip_state(), hashlib.sha256(path.read_bytes()).hexdigest()
    if path.suffix not in SUFFIXES:
        raise ClipError(f"{path} is neither a file of weights nor a checkpoint.pt")
    return read_tensors(path)
