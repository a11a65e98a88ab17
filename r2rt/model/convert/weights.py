"""Reads the files that a model is converted from: a checkpoint, and CLIP's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import ConversionError
from r2rt.model.convert.archive import ArchiveError, read_archive, read_module_tensors

__all__ = ["read_checkpoint", "read_clip"]

Weights = Mapping[str, NDArray[Any]]


def read_checkpoint(path: Path) -> Weights:
    """Return the tensors of a checkpoint `{"meta", "state_dict"}`, or of a bare state dict.

    Raises:
        ConversionError: the file is none, is damaged, or holds more than tensors.
    """
    return _read(path, "checkpoint")


def read_clip(path: Path) -> Weights:
    """Return the tensors of CLIP by OpenAI's names: safetensors, TorchScript, or a state dict.

    Raises:
        ConversionError: the file is none of these, is damaged, or holds more than tensors.
    """
    return _read(path, "file of CLIP weights")


def _read(path: Path, what: str) -> Weights:
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if start.lstrip()[:1] == b"<":
            raise ArchiveError("it is a web page (a login or an error) that came in its place")
        if start[8:9] == b"{":
            return _Safetensors(path)
        tensors = read_module_tensors(path)
        return _state_dict(read_archive(path), path) if tensors is None else tensors
    except (ArchiveError, OSError) as error:
        raise ConversionError(
            f"{path.name} is no {what} that can be used: {error}; get the file again"
        ) from error


def _state_dict(content: object, path: Path) -> Weights:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise ArchiveError("it holds no dictionary of tensors")
    size = path.stat().st_size
    for name, array in content.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise ArchiveError(f"{str(name)[:60]!r} is no tensor")
        if array.size > size:
            raise ArchiveError(f"{name[:60]!r} has more numbers than the file has bytes")
    return content


class _Safetensors(Mapping[str, NDArray[Any]]):
    """A file of safetensors, each tensor read when it is asked for."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            file: Any = safe_open(path, framework="numpy")
        except SafetensorError as error:
            raise ArchiveError(str(error).splitlines()[0]) from error
        self._file = file
        self._names = frozenset(file.keys())

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        array: NDArray[Any] = self._file.get_tensor(name)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
