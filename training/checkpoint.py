"""Checkpoints: read without running anything in them, and fitted to the model key by key."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from r2rt.errors import R2rtError, SourceNotFoundError
from r2rt.printable import printable
from r2rt.textfiles import UTF8_MARK
from training.model import Padding, R2Config, R2Tuning

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "build_model",
    "first_line",
    "is_web_page",
    "load_checkpoint",
]

# How many offending keys a message names.
_NAMED_KEYS = 6


class CheckpointError(R2rtError, ValueError):
    """A checkpoint is damaged, unsafe to read, or of another model."""

    exit_code: ClassVar[int] = 65


class Checkpoint(NamedTuple):
    """A checkpoint's content.

    Attributes:
        state_dict: tensors by name, on the CPU.
        meta: what the trainer wrote beside them; empty for a bare state dict.
        sha256: of the file's bytes, in hexadecimal; it identifies published checkpoints.
    """

    state_dict: dict[str, Tensor]
    meta: dict[str, Any]
    sha256: str


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint in PyTorch's format or safetensors, distinguished by content.

    PyTorch's format is unpickled with tensors and plain containers allowed and nothing else, so a
    hostile file is refused, not run. Its layout is `{"meta", "state_dict"}` or a bare state dict.

    Raises:
        SourceNotFoundError: the file does not exist or cannot be read.
        CheckpointError: it is truncated, no checkpoint, or asks for more than tensors.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceNotFoundError(f"cannot read {path}: {error.strerror or error}") from error
    if is_web_page(data):
        raise CheckpointError(
            f"{path} is a web page (HTML), not a checkpoint: the download was answered by a page, "
            "such as a login or a preview; fetch the file itself"
        )
    # A safetensors file is a length of 8 bytes, then a JSON object.
    content, meta = _read_safetensors(path, data) if data[8:9] == b"{" else _read_torch(path, data)
    if not content or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise CheckpointError(f"{path} holds no state dict: expected a tensor for every name")
    return Checkpoint(content, meta, hashlib.sha256(data).hexdigest())


def build_model(
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    heads: int = 8,
    use_tef: bool | None = None,
    merge_cls_sal: bool | None = None,
    dropout: float = 0.5,
    drop_path: float = 0.1,
    padding: Padding = Padding.EXACT,
    read_layers: tuple[int, ...] | None = None,
) -> R2Tuning:
    """Build the model that a checkpoint was made from, with its weights, in evaluation mode.

    Args:
        source: a checkpoint's path, or its state dict.
        heads: see `R2Config.from_state_dict`.
        use_tef: see `R2Config.from_state_dict`.
        merge_cls_sal: see `R2Config.from_state_dict`.
        dropout: for further training.
        drop_path: for further training.
        padding: for further training.
        read_layers: see `R2Config.from_state_dict`.

    Raises:
        SourceNotFoundError: the file does not exist or cannot be read.
        CheckpointError: the file cannot be read as a checkpoint, or a tensor is missing, of another
            shape, not floating-point, or unknown.
    """
    state_dict = source if isinstance(source, Mapping) else load_checkpoint(source).state_dict
    try:
        config = R2Config.from_state_dict(
            state_dict,
            heads=heads,
            use_tef=use_tef,
            merge_cls_sal=merge_cls_sal,
            dropout=dropout,
            drop_path=drop_path,
            padding=padding,
            read_layers=read_layers,
        )
    except KeyError as error:
        raise CheckpointError(
            f"not an R²-Tuning checkpoint: {error.args[0]} is missing; found {_some(state_dict)}"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"not an R²-Tuning checkpoint: {error}") from error
    # Shapes are compared before memory is taken.
    with torch.device("meta"):
        expected = R2Tuning(config).state_dict()
    _check_keys(state_dict, expected)
    model = R2Tuning(config)
    model.load_state_dict(dict(state_dict), strict=True)
    return model.eval()


def is_web_page(content: bytes) -> bool:
    """Return whether a file's content is HTML, as servers send in place of a file."""
    start = content[:1024].removeprefix(UTF8_MARK).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head"))


def _read_torch(path: Path, data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged or asks to run code ({first_line(error)}); only tensors and plain "
            f"containers are read: get the file from its source again"
        ) from error
    # Damaged bytes make the zip reader and the unpickler fail in ways that no list covers.
    except Exception as error:
        raise CheckpointError(
            f"{path} is truncated or no PyTorch checkpoint ({first_line(error)}): get the file "
            f"from its source again"
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, expected a state dict")
    if not isinstance(loaded.get("state_dict"), dict):
        return loaded, {}
    meta = loaded.get("meta")
    return loaded["state_dict"], meta if isinstance(meta, dict) else {}


def _read_safetensors(path: Path, data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is truncated or no safetensors file ({first_line(error)}): get the file from "
            f"its source again"
        ) from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, dict(header.get("__metadata__", {}))


def _check_keys(state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    missing = expected.keys() - state_dict.keys()
    unexpected = state_dict.keys() - expected.keys()
    shared = sorted(expected.keys() & state_dict.keys())
    problems = []
    if missing:
        problems.append(f"missing: {_some(missing)}")
    if unexpected:
        problems.append(f"unexpected: {_some(unexpected)}")
    wrong = [
        f"{key} has shape {tuple(state_dict[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in shared
        if state_dict[key].shape != expected[key].shape
    ]
    wrong += [
        f"{key} is {state_dict[key].dtype}, expected floating point"
        for key in shared
        if not state_dict[key].is_floating_point()
    ]
    problems += wrong[:_NAMED_KEYS]
    if problems:
        raise CheckpointError(
            f"the checkpoint is of another model: {'; '.join(problems)}. Give the checkpoint of an "
            f"R²-Tuning model, or its use_tef"
        )


def _some(keys: Iterable[str]) -> str:
    names = sorted(map(str, keys))
    rest = len(names) - _NAMED_KEYS
    return ", ".join(names[:_NAMED_KEYS]) + (f" and {rest} more" if rest > 0 else "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without control characters."""
    # PyTorch colours its messages with escape sequences.
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", str(error)).strip()
    return printable((text.splitlines() or [type(error).__name__])[0].rstrip("."))
