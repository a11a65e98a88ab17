"""Tokens in a twentieth of their bytes: similar patches are merged, numbers have four bits.

A frame's P tokens of one CLIP layer become R = 1 + 16 rows: CLS, and the means of 16 clusters of its
patches (k-means over p, or over v without temporal endpoint features; it begins with the patches
that are farthest apart). The R² block attends to a row that stands for n equal patches as to one
whose score has ln(n) added, so nothing is lost but the differences within a cluster, and fewer rows
are read. The numbers of a row are rounded to -7..7 times a scale, one scale for each 32 of them.
Mean and √M2 are kept in fp16: M2 itself may exceed fp16's range.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLUSTERS", "CompactTokens"]

Floats = NDArray[np.float32]

CLUSTERS = 16
_ROUNDS = 6
_GROUP = 32
_LEVELS = np.float32(7)
_LARGEST_HALF = np.float32(np.finfo(np.float16).max)
# Clips merged at once: bounds what is in memory meanwhile.
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
        parts = [
            _merged(np.asarray(tokens[start : start + _CLIPS_AT_ONCE]), width)
            for start in range(0, len(tokens), _CLIPS_AT_ONCE)
        ]
        codes, scales, moments, counts = (np.concatenate(x) for x in zip(*parts, strict=True))
        return cls(codes=codes, scales=scales, moments=moments, counts=counts, width=width)

    def __len__(self) -> int:
        """Clips T."""
        return len(self.codes)

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The four arrays by their names."""
        names = ("codes", "scales", "moments", "counts")
        return {name: getattr(self, name) for name in names}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def token_shape(self) -> tuple[int, int, int]:
        """(K, P, C) of the tokens that these were made of."""
        patches = int(self.counts[0, 0].sum(dtype=np.int64)) if len(self) else 0
        return self.codes.shape[1], patches, self.width + self.moments.shape[-1]

    def part(self, start: int, end: int) -> CompactTokens:
        """Return the clips from `start` up to `end`: views, nothing is copied."""
        views = {name: array[start:end] for name, array in self.arrays.items()}
        return dataclasses.replace(self, **views)

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
        k, patches, channels = self.token_shape
        flat = rows.reshape(-1, channels)
        index = np.repeat(np.arange(len(flat)), self.counts.reshape(-1))
        return flat[index].reshape(len(self), k, patches, channels)


def _merged(tokens: Floats, width: int) -> tuple[NDArray[np.generic], ...]:
    """Return codes, scales, moments and counts of clips (T, K, P, C)."""
    clips, layers, patches, channels = tokens.shape
    groups = tokens.reshape(-1, patches, channels)  # (G, P, C)
    cls, rest = groups[:, :1], groups[:, 1:]
    members = _clusters(rest[..., :width], min(CLUSTERS, patches - 1))  # (G, N, M), 0 or 1
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
    scales = np.minimum(largest / _LEVELS, _LARGEST_HALF).astype(np.float16)
    inverse = scales.astype(np.float32)
    np.divide(1, inverse, out=inverse, where=inverse > 0)
    codes = np.rint(parts * inverse[..., None]).clip(-_LEVELS, _LEVELS) + 8
    codes = codes.astype(np.uint8).reshape(padded.shape)[..., : 2 * math.ceil(width / 2)]
    return codes[..., 0::2] | codes[..., 1::2] << 4, scales
