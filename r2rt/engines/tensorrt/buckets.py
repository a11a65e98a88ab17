"""Few shapes for many: what a CUDA graph is captured for, and how inputs are padded to it.

Frames and queries are padded to a power of two by repeating the last, query tokens to a multiple of
eight by zeros, which `query_mask` takes out; all else is as it is. So padding changes no number
that is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from r2rt.engines.resident import DeviceArray
from r2rt.errors import BackendUnavailableError
from r2rt.model.contract import GraphSpec, TensorSpec, level_lengths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from r2rt.engines.tensorrt.plans import Range

__all__ = ["bucketed", "pad_into", "shape_of", "symbols_of"]

_TOKEN_STEP = 8


def symbols_of(
    spec: GraphSpec, inputs: Mapping[str, NDArray[Any] | DeviceArray], strides: tuple[int, ...]
) -> dict[str, int]:
    """Return the value of every symbol of a graph, as its inputs have it.

    Args:
        spec: the graph's definition.
        inputs: an array for every input.
        strides: of the temporal pyramid, which make M of T.

    Raises:
        ValueError: an input is missing, or of another shape or type than defined.
    """
    symbols: dict[str, int] = {}
    for tensor in spec.inputs:
        if tensor.name not in inputs:
            raise ValueError(f"{spec.name}: no input {tensor.name}")
        array = inputs[tensor.name]
        # What stays on the device may be in fp16; its program checks that.
        fits = isinstance(array, DeviceArray) or array.dtype == tensor.dtype
        fits = fits and len(array.shape) == len(tensor.shape)
        for size, found in zip(tensor.shape, array.shape, strict=False):
            wanted = symbols.setdefault(size, found) if isinstance(size, str) else size
            fits = fits and found == wanted and found > 0
        if not fits:
            raise ValueError(
                f"{spec.name}: {tensor.name} is {array.dtype} {tuple(array.shape)}, "
                f"expected {tensor.dtype} {tensor.shape} with {symbols}"
            )
    return _with_points(symbols, strides)


def bucketed(
    spec: GraphSpec, symbols: Mapping[str, int], ranges: Mapping[str, Range]
) -> dict[str, int]:
    """Return the symbols of the shapes that a graph is run with.

    Raises:
        BackendUnavailableError: the engine was not built for these sizes.
    """
    padded = dict(symbols)
    for name, sizes in ranges.items():
        size = symbols[name]
        # Fewer frames, queries or tokens are padded; a video's clips are not.
        least = 1 if name in {"B", "N", "L"} else sizes.least
        if not least <= size <= sizes.most:
            raise BackendUnavailableError(
                f"{spec.name}: {name} is {size}, the engine takes {sizes.least} to {sizes.most}; "
                "build the engine for a wider range, or use --device cuda or cpu"
            )
        if name in {"B", "N"}:
            size = 1 << (size - 1).bit_length()
        elif name == "L":
            size = -(-size // _TOKEN_STEP) * _TOKEN_STEP
        padded[name] = min(max(size, sizes.least), sizes.most)
    return padded


def shape_of(tensor: TensorSpec, symbols: Mapping[str, int]) -> tuple[int, ...]:
    """Return a tensor's shape under these symbols."""
    return tuple(symbols[size] if isinstance(size, str) else size for size in tensor.shape)


def pad_into(place: NDArray[Any], array: NDArray[Any]) -> None:
    """Copy an array into the first corner of a larger one, and pad the rest as the module says."""
    if array.shape[1:] != place.shape[1:]:
        place[: len(array)] = 0
    place[tuple(slice(size) for size in array.shape)] = array
    place[len(array) :] = place[len(array) - 1]


def _with_points(symbols: dict[str, int], strides: tuple[int, ...]) -> dict[str, int]:
    if "T" in symbols:
        symbols["M"] = int(np.sum(level_lengths(symbols["T"], strides)))
    return symbols
