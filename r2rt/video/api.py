"""What a source is, what it yields, and what it reports when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from r2rt.video.departures import Departures
from r2rt.video.plan import PlanCost

__all__ = ["ClipFrame", "DecodeReport", "FrameSource", "Sampling", "SourceInfo"]

Sampling = Literal["exact", "nearest"]


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """A source before it is read.

    Attributes:
        name: the path as given, or "<array>".
        kind: what it is.
        duration_s: how long the part is that is read.
        start_s: where that part begins on the source's own clock, whose 0 is the container's start.
        width: width in square pixels, upright.
        height: height in square pixels, upright.
        frame_rate: average frames a second, if the source says.
        codec: name of the codec, None for arrays.
        fingerprint: hex key of the content, whatever its path or date.
    """

    name: str
    kind: Literal["video", "images", "array"]
    duration_s: float
    start_s: float
    width: int
    height: int
    frame_rate: Fraction | None
    codec: str | None
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class ClipFrame:
    """One frame and the clips that it stands for.

    Attributes:
        clip_index: the first of these clips.
        count: how many there are, one after another; more than one where the source is slower than
            the clips.
        time_s: when the frame is presented, since the beginning of the part that is read.
        pixels: (S, S, 3) uint8 RGB, C-contiguous.
    """

    clip_index: int
    count: int
    time_s: float
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class DecodeReport:
    """What reading a source came to, complete once its iteration has ended.

    Attributes:
        clips: clips handed out.
        frames_decoded: frames that came out of the decoder.
        packets: packets that the source has.
        packets_decoded: packets given to the decoder.
        sampling: the sampling asked for.
        cost: what the plan promised; None where there was none.
        decoder: what decoded them, `cpu` or a hardware decoder.
        departures: how reading departed from exact. Damaged frames are used, since a patched frame
            is closer to the truth than an older one.
    """

    clips: int
    frames_decoded: int
    packets: int
    packets_decoded: int
    sampling: Sampling
    cost: PlanCost | None
    decoder: str = "cpu"
    departures: Departures = field(default_factory=Departures)

    @property
    def packets_lost(self) -> int:
        """Packets that could not be decoded or read."""
        return self.departures.packets_lost

    @property
    def frames_corrupt(self) -> int:
        """Frames handed out that the decoder marked as damaged."""
        return self.departures.frames_corrupt

    @property
    def frames_replaced(self) -> int:
        """Chosen frames that could not be decoded; a neighbour is used for each."""
        return self.departures.frames_replaced

    @property
    def fallback(self) -> str | None:
        """Why everything was decoded; None where the plan was followed."""
        return self.departures.decoded_all

    @property
    def decoder_fallback(self) -> str | None:
        """Why frames were decoded on the CPU although the GPU was asked for; None otherwise."""
        return self.departures.decoder_fallback


class FrameSource(Protocol):
    """A source of one frame a clip. Iterating reads it from its beginning, each time anew."""

    @property
    def info(self) -> SourceInfo:
        """What the source is."""

    @property
    def fps(self) -> Fraction:
        """Clips a second."""

    @property
    def num_clips(self) -> int:
        """How many clips are planned; iteration yields as many unless the source is damaged."""

    @property
    def cost(self) -> PlanCost | None:
        """What the plan costs; None where everything is decoded."""

    @property
    def report(self) -> DecodeReport:
        """What reading came to, so far."""

    def __iter__(self) -> Iterator[ClipFrame]:
        """Yield the frames of all clips in order."""

    def close(self) -> None:
        """Give back what the source holds; iteration under way ends."""

    def __enter__(self) -> FrameSource:
        """Return the source."""

    def __exit__(self, *_: object) -> None:
        """Close the source."""
