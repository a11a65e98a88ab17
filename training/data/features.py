"""Folders of features: one npy a video or query, hidden states of CLIP's last K layers.

The layout is the R²-Tuning authors': `clip_b32_vid_k4/VID.npy` (T, K, P, Cv) and
`clip_b32_txt_k4/QID.npy` (L, K, Ct), fp16, the last of K being CLIP's last block.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.errors import FeatureError
from training.data.videos import is_safe_name

__all__ = ["FeatureFolder", "find_feature_folder"]

_HOW = "make it with `python -m training.extract --format authors`"


class FeatureFolder:
    """Reads features by name; nothing is read before it is asked for.

    Args:
        folder: where the files are.
        dims: dimensions of a file: 4 for videos, 3 for queries.
        layers: layers K to keep, the last ones of a file that has more; None keeps all.
        flat_width: numbers a token, of files whose tokens are flattened; None where none are.

    Raises:
        FeatureError: there is no such folder.
    """

    def __init__(
        self, folder: Path, *, dims: int, layers: int | None = None, flat_width: int | None = None
    ) -> None:
        if not folder.is_dir():
            raise FeatureError(f"{folder}: no such folder of features; {_HOW}")
        self.folder = folder
        self._dims = dims
        self._layers = layers
        self._flat_width = flat_width

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
        return array if self._layers is None else array[:, -self._layers :]

    def _unflattened(self, array: NDArray[np.floating], path: Path) -> NDArray[np.floating]:
        """Give tokens back their dimensions where a file holds (T, K·P·Cv) or (L, K·Ct)."""
        width = (self._flat_width or 0) * (self._layers or 0)
        if array.ndim != 2 or not width or array.shape[1] % width:
            wanted = "(T, K, P, Cv)" if self._dims == 4 else "(L, K, Ct)"
            raise FeatureError(f"{path}: shape {array.shape}, expected {wanted}; {_HOW}")
        layers, token = self._layers or 0, self._flat_width or 0
        shape = (len(array), layers, -1, token) if self._dims == 4 else (len(array), layers, token)
        return array.reshape(shape)


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
