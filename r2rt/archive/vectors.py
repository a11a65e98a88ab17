"""Vectors of the first stage: pooled from a video's embeddings, compared by their cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["as_column", "as_vectors", "normalized", "pooled"]

Floats = NDArray[np.float32]


def normalized(vectors: NDArray[np.floating[Any]]) -> Floats:
    """Return vectors (..., E) with length 1; zeros stay zeros."""
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Floats = vectors / np.maximum(lengths, 1e-12)
    return unit


def pooled(embeddings: NDArray[np.floating[Any]], clips: int) -> Floats:
    """Return (ceil(T / clips), E): the means of so many clips each, all of length 1.

    Args:
        embeddings: (T, E), a clip each.
        clips: how many make a vector; the last one may be of fewer.
    """
    unit = normalized(embeddings)
    starts = np.arange(0, len(unit), clips)
    return normalized(np.add.reduceat(unit, starts, axis=0))


def as_column(vectors: Floats) -> pa.FixedSizeListArray:
    """Return vectors (N, E) as a column of float16."""
    import pyarrow as pa

    values = pa.array(np.ascontiguousarray(vectors, np.float16).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])


def as_vectors(column: pa.ChunkedArray, width: int) -> Floats:
    """Return a column as (N, E) float32."""
    parts = [
        np.asarray(chunk.flatten(), np.float16).reshape(-1, width)
        for chunk in column.chunks
        if len(chunk)
    ]
    if not parts:
        return np.empty((0, width), np.float32)
    return np.concatenate(parts).astype(np.float32)
