"""How the reading of a source departed from exact: counts, and a sentence for each."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

__all__ = ["Departures"]


@dataclass(frozen=True, kw_only=True)
class Departures:
    """Counts that are zero, and texts that are None, where nothing of the kind happened.

    Attributes:
        packets_lost: packets that the decoder refused, and places where the container was
            unreadable.
        packets_damaged: packets that the container marks as damaged, such as after a gap in a
            transport stream.
        frames_corrupt: frames handed out that the decoder marked as damaged.
        frames_replaced: chosen frames that could not be decoded; the nearest one is used.
        frames_lost_at_start: frames before the first one that decodes, which is used for them.
        clips_lost_at_end: planned clips after the last frame that decodes; they are left out.
        clips_similar: clips that were not encoded but took the tokens of a similar frame, since
            `skip_similar` allowed it.
        broken_at_byte: the first byte at which the container's parts do not fit together, since
            some of the file is missing or overwritten there.
        missing_s: seconds that hold no frames, in a broadcast or a broken file of constant rate.
        ends_early_s: seconds from the end of the last frame to the end that the file declares.
        leaps_closed: places where the stream's clock leapt, and the leap was taken out.
        leaps_s: the sum of these leaps, in seconds.
        decoded_all: why every frame was decoded although few were needed.
        decoder_fallback: why frames were decoded on the CPU although the GPU was asked for.
        track_chosen: which of several video tracks was read, where none was asked for.
    """

    packets_lost: int = 0
    packets_damaged: int = 0
    frames_corrupt: int = 0
    frames_replaced: int = 0
    frames_lost_at_start: int = 0
    clips_lost_at_end: int = 0
    clips_similar: int = 0
    broken_at_byte: int | None = None
    missing_s: float = 0.0
    ends_early_s: float = 0.0
    leaps_closed: int = 0
    leaps_s: float = 0.0
    decoded_all: str | None = None
    decoder_fallback: str | None = None
    track_chosen: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what is not zero or None; empty where the reading was exact."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the result other than that of an undamaged video, a sentence each."""
        found = []
        if self.packets_lost:
            found.append(f"{_count(self.packets_lost, 'packet')} could not be decoded")
        if self.packets_damaged:
            found.append(f"{_count(self.packets_damaged, 'packet')} arrived damaged")
        if self.frames_corrupt:
            found.append(f"{_count(self.frames_corrupt, 'frame')} used are damaged")
        if self.frames_replaced:
            found.append(
                f"{_count(self.frames_replaced, 'frame')} did not decode and were replaced by "
                "their neighbours"
            )
        if self.frames_lost_at_start:
            found.append(
                f"the first {_count(self.frames_lost_at_start, 'frame')} cannot be decoded; the "
                "first that can is shown instead"
            )
        if self.clips_lost_at_end:
            found.append(
                f"the last {_count(self.clips_lost_at_end, 'clip')} cannot be decoded and were "
                "left out"
            )
        if self.clips_similar:
            found.append(
                f"{_count(self.clips_similar, 'clip')} took the tokens of a similar frame and were "
                "not encoded, as asked for"
            )
        if self.broken_at_byte:
            found.append(
                f"the file is damaged or incomplete at byte {self.broken_at_byte}; the frames "
                "there are lost"
            )
        if self.missing_s:
            found.append(
                f"{self.missing_s:.1f} s of the recording hold no frames; "
                "the frame before each gap is shown instead"
            )
        if self.ends_early_s:
            found.append(
                f"the frames end {self.ends_early_s:.1f} s before the end that the file declares; "
                "it is damaged or was cut off"
            )
        if self.leaps_closed:
            found.append(
                f"the clock leaps {_times(self.leaps_closed)}, by {self.leaps_s:.1f} s in all; "
                "the leaps were closed, so times may differ from those that a player shows"
            )
        return tuple(found)

    @property
    def notes(self) -> tuple[str, ...]:
        """What changes no result but is worth knowing, a sentence each."""
        found = []
        if self.decoded_all:
            found.append(f"every frame was decoded: {self.decoded_all}")
        if self.decoder_fallback:
            found.append(f"decoded on the CPU: {self.decoder_fallback}")
        if self.track_chosen:
            found.append(self.track_chosen)
        return tuple(found)


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
