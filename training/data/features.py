"""Folders of features: one npy a video or query, hidden states of CLIP's last K layers.

The layout is the R²-Tuning authors': `clip_b32_vid_k4/VID.npy` (T, K, P, Cv) and
`clip_b32_txt_k4/QID.npy` (L, K, Ct), fp16, the last of K being CLIP's last block. In folders that
`training.extract` made, which have a `features.json` beside them, a query's file is named by its
sentence, so that another sentence of the same qid is missing and not mistaken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.errors import FeatureError
from training.data.videos import is_safe_name

__all__ = ["MANIFEST", "NAMING", "FeatureFolder", "find_feature_folder", "query_name"]

MANIFEST = "features.json"
"""Beside the folders that `training.extract` made: what made the features."""

NAMING = 2
"""Version of the names that `training.extract` gives to files; 1 named queries by qid."""

_HOW = "make it with `python -m training.extract --format authors`"


class FeatureFolder:
    """Reads features by name; nothing is read before it is asked for.

    Args:
        folder: where the files are.
        dims: dimensions of a file: 4 for videos, 3 for queries.
        layers: layers K to keep, the last ones of a file that has more, or which, counted from the
            last, -1; None keeps all.
        flat_width: numbers a token, of files whose tokens are flattened; None where none are.

    Raises:
        FeatureError: there is no such folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        dims: int,
        layers: int | Sequence[int] | None = None,
        flat_width: int | None = None,
    ) -> None:
        if not folder.is_dir():
            raise FeatureError(f"{folder}: no such folder of features; {_HOW}")
        self.folder = folder
        self._dims = dims
        read = range(-layers, 0) if isinstance(layers, int) else layers
        self._layers = None if read is None else -min(read)
        # A slice where it will do: what it gives is not copied.
        last = read is None or list(read) == list(range(min(read), 0))
        self._read = slice(-(self._layers or 0), None) if last or read is None else list(read)
        self._flat_width = flat_width
        self._made = _read_made(folder.parent / MANIFEST)

    @property
    def has_qids(self) -> bool:
        """Whether queries' features are called by their qids, as published ones; see `query`."""
        return self._made is None

    def query(self, qid: int | str, text: str) -> int | str:
        """Return the name of a query's features in this folder."""
        return qid if self.has_qids else query_name(text)

    def check_rate(self, fps: Fraction) -> None:
        """Refuse features that were extracted at another rate; published ones do not say theirs.

        Args:
            fps: clips a second that the features are read as.

        Raises:
            FeatureError: they were made at another rate.
        """
        if self._made is not None and Fraction(self._made.fps) != fps:
            raise FeatureError(
                f"{self.folder}: extracted at {self._made.fps} clips a second, the recipe has "
                f"{fps}; extract again with --fps {fps}, or train with --set fps={self._made.fps}"
            )

    def path(self, name: int | str) -> Path:
        """Return where the features of that name lie, or would lie."""
        if not is_safe_name(str(name)):
            raise FeatureError(f"{str(name)[:60]!r} cannot be the name of features")
        return self.folder / f"{name}.npy"

    def __contains__(self, name: int | str) -> bool:
        return self.path(name).is_file()

    def length(self, name: int | str) -> int:
        """Return how many clips or query tokens a file has, reading its header alone.

        Raises:
            FeatureError: see `load`.
        """
        return len(self._open(name))

    def load(self, name: int | str, *, most: int | None = None) -> Tensor:
        """Read features, the first `most` clips or tokens of them.

        Raises:
            FeatureError: the file is missing, damaged, or of another shape or type.
        """
        mapped = self._open(name)[:most]
        # A copy, so that what training reads is memory and not a file that may go away.
        return torch.from_numpy(np.array(mapped))

    def _open(self, name: int | str) -> NDArray[np.floating]:
        path = self.path(name)
        try:
            array: NDArray[np.floating] = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise FeatureError(f"{path}: missing; {_HOW}") from None
        except (OSError, ValueError, EOFError) as error:
            raise FeatureError(f"{path}: damaged ({error}); remove it and {_HOW}") from error
        if array.dtype not in (np.float16, np.float32) or not array.size:
            raise FeatureError(
                f"{path}: {array.dtype} {array.shape}, expected float16 or float32; {_HOW}"
            )
        if array.ndim != self._dims:
            array = self._unflattened(array, path)
        if self._layers is not None and array.shape[1] < self._layers:
            raise FeatureError(
                f"{path}: {array.shape[1]} CLIP layers, the model reads {self._layers}; {_HOW} "
                f"--layers {self._layers}"
            )
        return array if self._layers is None else array[:, self._read]

    def _unflattened(self, array: NDArray[np.floating], path: Path) -> NDArray[np.floating]:
        """Give tokens back their dimensions where a file holds (T, K·P·Cv) or (L, K·Ct)."""
        width = (self._flat_width or 0) * (self._layers or 0)
        if array.ndim != 2 or not width or array.shape[1] % width:
            wanted = "(T, K, P, Cv)" if self._dims == 4 else "(L, K, Ct)"
            raise FeatureError(f"{path}: shape {array.shape}, expected {wanted}; {_HOW}")
        layers, token = self._layers or 0, self._flat_width or 0
        shape = (len(array), layers, -1, token) if self._dims == 4 else (len(array), layers, token)
        return array.reshape(shape)


class _Made(msgspec.Struct, frozen=True):
    """Of a manifest: what reading depends on."""

    fps: str
    schema: int


def _read_made(path: Path) -> _Made | None:
    """What made a folder's features; None where that is unknown, as of published ones."""
    try:
        made = msgspec.json.decode(path.read_bytes(), type=_Made)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise FeatureError(f"{path}: damaged ({error}); extract the features again") from error
    if made.schema != NAMING:
        raise FeatureError(
            f"{path}: features of format {made.schema}, expected {NAMING}, which names queries by "
            "their sentences; extract them again into another folder"
        )
    return made


def query_name(text: str) -> str:
    """Return the name of a sentence's features: the first 32 hex digits of its sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def find_feature_folder(folder: Path, part: str, layers: int) -> Path:
    """Find the folder of features of videos (`vid`) or queries (`txt`) in a data set's folder.

    Raises:
        FeatureError: there is none, or there are several of which none is the obvious one.
    """
    found = sorted(path for path in folder.glob(f"*_{part}_k*") if path.is_dir())
    exact = [path for path in found if path.name.endswith(f"_k{layers}")] or found
    if len(exact) == 1:
        return exact[0]
    if not exact:
        raise FeatureError(
            f"{folder}: no folder of features such as clip_b32_{part}_k{layers}; make it with "
            "`python -m training.extract --format authors`"
        )
    names = ", ".join(path.name for path in exact)
    raise FeatureError(f"{folder}: several folders of features ({names}); leave one, or name it")
