"""Tokens in a twentieth of their bytes: similar patches are merged, numbers have four bits.

A frame's P tokens of one CLIP layer become R = 1 + 16 rows: CLS, and the means of 16 clusters of
its patches. Clusters are found by k-means on p/√M2, or on v without temporal endpoint features,
which begins with patches that are far from each other. The R² block attends to a row that replaces
n equal patches as to one whose score has ln(n) added, so nothing is lost but the differences within
a cluster, and fewer rows are read. The numbers of a row are rounded to -7..7 times a scale. Each 32
of them have one scale: of three, the one with the least error. Mean and √M2 are kept in fp16: M2
itself may exceed fp16's range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from r2rt.grounding.growing_array import forget

if TYPE_CHECKING:
    from r2rt.model.contract import ModelDims

__all__ = ["CLUSTERS", "CompactTokens"]

Floats = NDArray[np.float32]

CLUSTERS = 16
_ROUNDS = 6
_GROUP = 32
_LEVELS = np.float32(7)
# Shares of the largest number that the codes cover; numbers beyond it are clipped.
_SHARES = (1.0, 0.9, 0.8)
_LEAST = np.float32(1e-12)
_LARGEST_HALF = np.float32(np.finfo(np.float16).max)
# Clips merged at once: bounds the memory of merging.
_CLIPS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class CompactTokens:
    """The merged and rounded tokens of T clips.

    Attributes:
        codes: (T, K, R, ⌈D/2⌉) uint8, two numbers + 8 a byte, the first one in the lower four bits.
        scales: (T, K, R, ⌈D/32⌉) float16.
        moments: (T, K, R, 2) float16, mean and √M2; (T, K, R, 0) without endpoint features.
        counts: (T, K, R) uint16, patches that a row stands for; 1 for CLS. Their sum is P.
        width: numbers D of a row that are rounded.
    """

    codes: NDArray[np.uint8] = field(repr=False)
    scales: NDArray[np.float16] = field(repr=False)
    moments: NDArray[np.float16] = field(repr=False)
    counts: NDArray[np.uint16] = field(repr=False)
    width: int

    @classmethod
    def of(cls, tokens: Floats, *, width: int) -> CompactTokens:
        """Merge and round tokens (T, K, P, C); their first `width` numbers are p, or v.

        At least two tokens a frame and one clip are needed. The result depends on each clip alone.
        """
        parts = []
        for start in range(0, len(tokens), _CLIPS_AT_ONCE):
            part = np.asarray(tokens[start : start + _CLIPS_AT_ONCE])
            parts.append(_merged(part, width))
            forget(part)
        codes, scales, moments, counts = (np.concatenate(x) for x in zip(*parts, strict=True))
        return cls(codes=codes, scales=scales, moments=moments, counts=counts, width=width)

    def __len__(self) -> int:
        """Clips T."""
        return len(self.codes)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The four arrays by their names, the widest types first."""
        names = ("scales", "moments", "counts", "codes")
        return {name: getattr(self, name) for name in names}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def problem(self, token_shape: tuple[int, int, int]) -> str | None:
        """Return why these cannot be merged tokens of shape (K, P, C) a clip; None if they can."""
        layers, patches, channels = token_shape
        rows = self.counts.shape[2]
        shapes = {
            "codes": (layers, rows, math.ceil(self.width / 2)),
            "scales": (layers, rows, math.ceil(self.width / _GROUP)),
            "moments": (layers, rows, channels - self.width),
            "counts": (layers, rows),
        }
        for name, shape in shapes.items():
            found = self.arrays[name].shape
            if found != (len(self), *shape):
                return f"{name} have shape {found}, expected {(len(self), *shape)}"
        if channels - self.width not in (0, 2) or self.width < 1:
            return f"{self.width} of {channels} numbers are rounded"
        if (self.counts[..., 0] != 1).any():
            return "the first row is not CLS alone"
        if (self.counts.sum(axis=-1, dtype=np.int64) != patches).any():
            return f"rows do not count {patches} patches together"
        return None

    def part(self, start: int, end: int) -> CompactTokens:
        """Return the clips from `start` up to `end`: views, nothing is copied."""
        views = {name: array[start:end] for name, array in self.arrays.items()}
        return CompactTokens(width=self.width, **views)

    def to_bytes(self) -> bytes:
        """Return all arrays one after another, as `from_bytes` reads them."""
        return b"".join(array.tobytes() for array in self.arrays.values())

    @classmethod
    def from_bytes(cls, data: bytes, *, clips: int, dims: ModelDims) -> CompactTokens:
        """Return the tokens that `to_bytes` wrote of so many clips of a model.

        Raises:
            ValueError: the data are of another length, or rows do not count P patches.
        """
        rows = 1 + min(CLUSTERS, dims.patches - 1)
        channels = dims.token_width - dims.width
        shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            "scales": (np.dtype(np.float16), (math.ceil(dims.width / _GROUP),)),
            "moments": (np.dtype(np.float16), (channels,)),
            "counts": (np.dtype(np.uint16), ()),
            "codes": (np.dtype(np.uint8), (math.ceil(dims.width / 2),)),
        }
        arrays: dict[str, NDArray[Any]] = {}
        start = 0
        for name, (dtype, last) in shapes.items():
            shape = (clips, dims.layers, rows, *last)
            end = start + math.prod(shape) * dtype.itemsize
            arrays[name] = np.frombuffer(data[start:end], dtype).reshape(shape)
            start = end
        if start != len(data):
            raise ValueError(f"{len(data)} bytes of {clips} clips, expected {start}")
        found = cls(width=dims.width, **arrays)
        problem = found.problem((dims.layers, dims.patches, dims.token_width))
        if problem:
            raise ValueError(problem)
        return found

    @classmethod
    def joined(cls, parts: Sequence[CompactTokens]) -> CompactTokens:
        """Return the clips of several parts, one after another."""
        names = parts[0].arrays
        arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in names}
        return cls(width=parts[0].width, **arrays)

    def rows(self) -> Floats:
        """Return the rows (T, K, R, C) float32, as tokens are; see `bias`."""
        codes = np.empty((*self.codes.shape, 2), np.uint8)
        np.bitwise_and(self.codes, 15, out=codes[..., 0])
        np.right_shift(self.codes, 4, out=codes[..., 1])
        values = codes.reshape(*self.codes.shape[:-1], -1)[..., : self.width].astype(np.float32)
        values -= 8
        scales = np.repeat(self.scales.astype(np.float32), _GROUP, axis=-1)[..., : self.width]
        values *= scales
        moments = self.moments.astype(np.float32)
        moments[..., 1:] **= 2
        return np.concatenate([values, moments], axis=-1)

    def bias(self) -> Floats:
        """Return ln(n) of each row's count n (T, K, R) float32; -∞ for a row that counts 0."""
        with np.errstate(divide="ignore"):
            bias: Floats = np.log(self.counts, dtype=np.float32)
        return bias

    def repeated(self) -> Floats:
        """Return the rows as often as they count: tokens (T, K, P, C) for a graph that takes P."""
        rows = self.rows()
        flat = rows.reshape(-1, rows.shape[-1])
        index = np.repeat(np.arange(len(flat)), self.counts.reshape(-1))
        return flat[index].reshape(*rows.shape[:2], -1, rows.shape[-1])


def _merged(tokens: Floats, width: int) -> tuple[NDArray[np.generic], ...]:
    """Return codes, scales, moments and counts of clips (T, K, P, C)."""
    clips, layers, patches, channels = tokens.shape
    groups = tokens.reshape(-1, patches, channels)  # (G, P, C)
    cls, rest = groups[:, :1], groups[:, 1:]
    points = rest[..., :width]
    if channels > width:
        # v depends on p by its share of the token's deviation.
        points = (points / np.sqrt(np.maximum(rest[..., -1:], _LEAST))).astype(np.float32)
    members = _clusters(points, min(CLUSTERS, patches - 1))  # (G, N, M), 0 or 1
    counts = members.sum(axis=1)  # (G, M)
    means = members.transpose(0, 2, 1) @ rest / np.maximum(counts, 1)[..., None]
    rows = np.concatenate([cls, means], axis=1)
    numbers = np.concatenate([np.ones((len(rows), 1)), counts], axis=1)
    codes, scales = _rounded(rows[..., :width])
    moments = rows[..., width:].copy()
    moments[..., 1:] = np.sqrt(np.maximum(moments[..., 1:], 0))
    moments = moments.clip(-_LARGEST_HALF, _LARGEST_HALF)
    shape = (clips, layers, rows.shape[1])
    return (
        codes.reshape(*shape, -1),
        scales.reshape(*shape, -1),
        moments.astype(np.float16).reshape(*shape, channels - width),
        numbers.astype(np.uint16).reshape(shape),
    )


def _clusters(x: Floats, clusters: int) -> Floats:
    """Return which of the clusters each of N points (G, N, D) is in: one-hot (G, N, M).

    Distances come from the Gram matrix, so that a round does not depend on D.
    """
    centred = x - x.mean(axis=1, keepdims=True)
    gram = centred @ centred.transpose(0, 2, 1)  # (G, N, N)
    square = np.einsum("gnn->gn", gram).copy()
    members = _nearest(_farthest(gram, square, clusters))
    for _ in range(_ROUNDS):
        counts = members.sum(axis=1)  # (G, M)
        share = members / np.maximum(counts, 1)[:, None]
        inner = gram @ share  # (G, N, M), x·mean
        # |x - mean|² without |x|², which is the same for all clusters.
        distance = np.einsum("gnm,gnm->gm", share, inner)[:, None] - 2 * inner
        distance += np.where(counts, 0, np.inf)[:, None].astype(np.float32)
        members = _nearest(distance)
    return members


def _farthest(gram: Floats, square: Floats, clusters: int) -> Floats:
    """Return squared distances (G, N, M) to M points, each the farthest from those before.

    The first is the one that is farthest from the mean.
    """
    groups = np.arange(len(gram))
    chosen = square.argmax(axis=1)
    distances = np.empty((*square.shape, clusters), np.float32)
    least = np.full_like(square, np.inf)
    for index in range(clusters):
        to_chosen = square + square[groups, chosen][:, None] - 2 * gram[groups, chosen]
        distances[..., index] = to_chosen
        np.minimum(least, to_chosen, out=least)
        chosen = least.argmax(axis=1)
    return distances


def _nearest(distances: Floats) -> Floats:
    """Return 1 at the least of the last axis, the first of equal ones, else 0."""
    one_hot = np.zeros_like(distances)
    np.put_along_axis(one_hot, distances.argmin(axis=-1)[..., None], 1, axis=-1)
    return one_hot


def _rounded(rows: Floats) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Return codes (..., ⌈D/2⌉) and scales (..., ⌈D/32⌉) of rows (..., D)."""
    width = rows.shape[-1]
    groups = math.ceil(width / _GROUP)
    padded = np.zeros((*rows.shape[:-1], groups * _GROUP), np.float32)
    padded[..., :width] = rows
    parts = padded.reshape(*rows.shape[:-1], groups, _GROUP)
    largest = np.maximum(parts.max(axis=-1), -parts.min(axis=-1))
    scales = np.zeros(largest.shape, np.float16)
    codes = np.zeros(parts.shape, np.float32)
    least = np.full(largest.shape, np.inf, np.float32)
    for share in _SHARES:
        tried = np.minimum(largest * np.float32(share) / _LEVELS, _LARGEST_HALF).astype(np.float16)
        step = tried.astype(np.float32)
        inverse = np.divide(1, step, out=np.zeros_like(step), where=step > 0)
        rounded = np.rint(parts * inverse[..., None])
        np.clip(rounded, -_LEVELS, _LEVELS, out=rounded)
        off = rounded * step[..., None] - parts
        error = np.einsum("...n,...n->...", off, off)
        better = error < least
        least, scales = np.where(better, error, least), np.where(better, tried, scales)
        np.copyto(codes, rounded, where=better[..., None])
    found = (codes + 8).astype(np.uint8).reshape(padded.shape)[..., : 2 * math.ceil(width / 2)]
    packed: NDArray[np.uint8] = found[..., 0::2] | np.left_shift(found[..., 1::2], np.uint8(4))
    return packed, scales
