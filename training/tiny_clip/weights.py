"""The trained tiny CLIP as files that open_clip and `training.clip` load, and back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from r2rt.files import replacing
from training.clip import ClipError, openai_name
from training.clip_weights import read_weights
from training.tiny_clip.model import CONFIG_PATH, TinyClip
from training.tiny_clip.rows import compact, expand, motion_rows, row_count

__all__ = [
    "WEIGHTS_NAME",
    "load_model",
    "read_made",
    "read_tensors",
    "write_compact",
    "write_weights",
]

WEIGHTS_NAME = "r2rt-tiny.safetensors"
_EMBEDDING = "token_embedding.weight"
_MADE = "made"
# Of the random embeddings of the words of motion.
_WORDS_SEED = 0


def write_weights(model: TinyClip, folder: Path) -> Path:
    """Write the weights in open_clip's names (the embedding in full) and the configuration.

    Returns:
        The file of weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(CONFIG_PATH, folder / CONFIG_PATH.name)
    path = folder / WEIGHTS_NAME
    with replacing(path) as temporary:
        save_file(model.open_clip_state(), temporary)
    return path


def write_compact(
    weights: Path,
    path: Path,
    made: Mapping[str, Any] | None = None,
    *,
    motion_words: float = 0.0,
) -> None:
    """Write weights again in fp16, of the embedding only the rows of the world's words.

    No frame shows a motion, so what captions say of it is noise to CLIP, which learns that "left"
    and "right" are one word. Who reads its hidden states needs them to be two: random embeddings
    set them apart, and change nothing of what a sentence is taken to show.

    Args:
        weights: the file of a training.
        path: where.
        made: how they were made, which is kept in the file; see `read_made`.
        motion_words: length of the random embeddings of the words of motion; 0 leaves them as they
            are. Those that were trained have lengths near 1.
    """
    tensors, _ = read_tensors(weights)
    table = compact(tensors[_EMBEDDING])
    if motion_words:
        rows = list(motion_rows())
        generator = torch.Generator().manual_seed(_WORDS_SEED)
        drawn = torch.randn(len(rows), table.shape[1], generator=generator)
        table[rows] = motion_words * drawn / drawn.norm(dim=1, keepdim=True)
    tensors[_EMBEDDING] = table
    halves = {name: x.half().contiguous() for name, x in tensors.items()}
    with replacing(path) as temporary:
        save_file(halves, temporary, metadata={_MADE: json.dumps(made or {}, sort_keys=True)})


def read_made(path: Path) -> dict[str, Any]:
    """Return what a file of weights says of how they were made; nothing if it says nothing.

    Raises:
        ClipError: it is no file of weights.
    """
    try:
        with safe_open(path, "np") as file:
            said = (file.metadata() or {}).get(_MADE, "{}")
        made = json.loads(said)
    except (OSError, SafetensorError, ValueError) as error:
        raise ClipError(f"{path}: not weights of the tiny CLIP: {error}") from error
    return made if isinstance(made, dict) else {}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read either form of the weights; return them in fp32, the embedding in full, and the sha256.

    Raises:
        ClipError: the file holds no weights of a CLIP.
    """
    tensors, sha256 = read_weights(path)
    tensors = {name: x.float() for name, x in tensors.items()}
    if _EMBEDDING in tensors and len(tensors[_EMBEDDING]) == row_count():
        tensors[_EMBEDDING] = expand(tensors[_EMBEDDING])
    return tensors, sha256


def load_model(path: Path) -> TinyClip:
    """Read a model from its weights, or from a training's checkpoint.pt (averaged weights).

    What only training has (the class matrix, the colour head) is left as it is made where the file
    lacks it.

    Raises:
        ClipError: there is no such file, or its tensors are not this model's.
    """
    if not path.is_file():
        raise ClipError(f"{path} is no file; train with python -m training.tiny_clip.train")
    model = TinyClip()
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["average"])
        return model.eval()
    _fill(model, read_tensors(path)[0])
    return model.eval()


def _fill(model: TinyClip, tensors: dict[str, Tensor]) -> None:
    """Copy tensors of open_clip's names into the model."""
    names = {
        openai_name(prefix + name): prefix + name
        for prefix, tower in (("vision.", model.vision), ("text.", model.text))
        for name in tower.state_dict()
    }
    names |= {f"visual.ln_post.{kind}": f"ln_post.{kind}" for kind in ("weight", "bias")}
    names |= {f"ln_final.{kind}": f"ln_final.{kind}" for kind in ("weight", "bias")}
    names |= {"visual.proj": "proj", "text_projection": "text_projection"}
    names |= {"logit_scale": "logit_scale"}
    if names.keys() != tensors.keys():
        odd = sorted(names.keys() ^ tensors.keys())
        raise ClipError(f"these are not the tiny CLIP's weights: {', '.join(odd[:4])}")
    state = {ours: tensors[theirs] for theirs, ours in names.items()}
    key = "text.token_embedding.weight"
    state[key] = compact(state[key])
    expected = model.state_dict()
    misshapen = [name for name in state if state[name].shape != expected[name].shape]
    if misshapen:
        raise ClipError(f"these are not the tiny CLIP's weights: {', '.join(misshapen[:4])}")
    model.load_state_dict(state, strict=False)
