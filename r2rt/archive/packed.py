"""Tokens of the second stage: compact, and packed into rows that a search can read alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r2rt.errors import LibraryError
from r2rt.grounding.compact import CompactTokens
from r2rt.grounding.encoded import EncodedVideo

if TYPE_CHECKING:
    from r2rt.model.contract import ModelDims

__all__ = ["Pack", "pack", "unpacked"]

# A row holds half a minute to a minute: a window of 75 clips is in 3 to 5 rows.
_CLIPS = 25
# A video that has not changed is not read again.
_AGAIN = "remove the video from the library and index it again"


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Tokens of clips `first` up to `first + clips`."""

    first: int
    clips: int
    data: bytes


def pack(encoded: EncodedVideo, dims: ModelDims) -> Iterator[Pack]:
    """Yield the tokens of a video in packs, in order, about 10 KB a clip for ViT-B/32."""
    for first in range(0, encoded.num_clips, _CLIPS):
        part = encoded.part(first, min(first + _CLIPS, encoded.num_clips)).compacted(dims).compact
        assert part is not None
        yield Pack(first=first, clips=len(part), data=part.to_bytes())


def unpacked(packs: Sequence[Pack], first: int, end: int, dims: ModelDims) -> CompactTokens:
    """Return the tokens of clips `first` up to `end`.

    Args:
        packs: those that hold the clips, in order.
        first: the first clip.
        end: the clip after the last one.
        dims: sizes of the model.

    Raises:
        LibraryError: packs are missing or damaged.
    """
    expected = packs[0].first if packs else end
    for item in packs:
        if item.first != expected:
            break
        expected += item.clips
    if not packs or packs[0].first > first or expected < end:
        raise LibraryError(
            f"tokens of clips {first} to {end} are missing; remove the video, index it again"
        )
    try:
        parts = [CompactTokens.from_bytes(x.data, clips=x.clips, dims=dims) for x in packs]
    except ValueError as error:
        raise LibraryError(
            f"tokens of clips {first} to {end} are damaged ({error}); remove the video, "
            "index it again"
        ) from error
    start = packs[0].first
    return CompactTokens.joined(parts).part(first - start, end - start)
