"""The rows of the token embedding that the emoji world needs, of the 49,408 that CLIP has.

CLIP's tokenizer stays as it is. A map from its ids to rows stands between it and the embedding: ids
that no caption of the world holds share row 0, the unknown one. `expand` gives the full table back,
which open_clip loads.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.world.captions import all_words
from training.world.colours import COLOURS
from training.world.concepts import CONCEPTS
from training.world.sentences import motion_words

__all__ = [
    "END",
    "START",
    "UNKNOWN_ROW",
    "VOCABULARY",
    "compact",
    "encode",
    "expand",
    "known_words",
    "motion_rows",
    "row_count",
    "row_map",
]

VOCABULARY = 49408
START, END = 49406, 49407
UNKNOWN_ROW = 0


@functools.cache
def known_words() -> tuple[str, ...]:
    """The words that the model has read, sorted."""
    return all_words()


@functools.cache
def row_map() -> NDArray[np.int32]:
    """Return the row of every token id, (49408,) int32; 0 where the world does not know it."""
    ids = sorted({piece for word in known_words() for piece in _pieces(word)} | {START, END})
    rows = np.full(VOCABULARY, UNKNOWN_ROW, np.int32)
    rows[ids] = np.arange(1, len(ids) + 1)
    return rows


def row_count() -> int:
    """How many rows there are, the unknown one included."""
    return int(row_map().max()) + 1


@functools.cache
def motion_rows() -> tuple[int, ...]:
    """Return the sorted rows of the words of motion, without pieces of names and colours."""
    names = [word for concept in CONCEPTS for name in concept.names for word in name.split()]
    named = {piece for word in (*names, *COLOURS) for piece in _pieces(word)}
    moving = {piece for word in motion_words() for piece in _pieces(word)}
    return tuple(sorted(int(row_map()[piece]) for piece in moving - named))


def encode(texts: Iterable[str]) -> Tensor:
    """Return CLIP's ids of lower-case texts, (N, L) int64: start, words, end, then zeros.

    The same as CLIP's tokenizer gives, up to its padding to 77.
    """
    rows = [
        [START, *(piece for word in text.split() for piece in _pieces(word)), END] for text in texts
    ]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row)] = torch.tensor(row)
    return ids


def expand(table: Tensor) -> Tensor:
    """Return the full embedding, (49408, C), of a compact one (R, C)."""
    return table[torch.from_numpy(row_map()).long()]


def compact(table: Tensor) -> Tensor:
    """Return the compact embedding (R, C) of a full one whose unknown ids are all alike."""
    rows = row_map()
    first = np.zeros(row_count(), np.int64)
    first[rows[::-1]] = np.arange(VOCABULARY)[::-1]
    return table[torch.from_numpy(first)]


@functools.lru_cache(maxsize=65536)
def _pieces(word: str) -> tuple[int, ...]:
    """CLIP's ids of one word; its byte pairs never reach across spaces."""
    return tuple(_tokenizer().encode(word))


@functools.cache
def _tokenizer():  # type: ignore[no-untyped-def]
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
