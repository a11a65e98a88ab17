"""Tokens of the second stage, packed into rows that a search can read alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import LibraryError
from r2rt.grounding.encoded import EncodedVideo

__all__ = ["Pack", "pack", "unpacked"]

# A row holds half a minute to a minute: a window of 75 clips is in 3 to 5 rows.
_CLIPS = 25


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Tokens of clips `first` up to `first + clips`."""

    first: int
    clips: int
    data: bytes


def pack(encoded: EncodedVideo) -> Iterator[Pack]:
    """Yield the tokens of a video in packs, in order."""
    for first in range(0, encoded.num_clips, _CLIPS):
        part = encoded.tokens[first : first + _CLIPS]
        yield Pack(first=first, clips=len(part), data=part.astype(np.float16).tobytes())


def unpacked(
    packs: Sequence[Pack], first: int, end: int, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return the tokens of clips `first` up to `end`.

    Args:
        packs: those that hold the clips, in order.
        first: the first clip.
        end: the clip after the last one.
        shape: of one clip's tokens (K, P, C).

    Raises:
        LibraryError: packs are missing or damaged.
    """
    try:
        parts = [np.frombuffer(item.data, np.float16).reshape(item.clips, *shape) for item in packs]
        starts = [item.first for item in packs]
        together = np.concatenate(parts)
    except ValueError as error:
        raise LibraryError(f"tokens of clips {first} to {end} are damaged ({error})") from error
    offset = first - starts[0]
    found = together[offset : offset + end - first]
    if offset < 0 or len(found) != end - first:
        raise LibraryError(f"tokens of clips {first} to {end} are missing; index the video again")
    return found.astype(np.float32)
