"""What watching came to: counts and latencies, for a person and for a machine."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

__all__ = ["Latencies", "WatchSummary"]

# Two seconds a clip: the last day and a half, half a megabyte.
_KEPT = 1 << 16


class Latencies:
    """The latest latencies, in bounded memory."""

    def __init__(self) -> None:
        self._values = array("d")
        self._next = 0

    def add(self, seconds: float) -> None:
        """Take in a latency."""
        if len(self._values) < _KEPT:
            self._values.append(seconds)
        else:
            self._values[self._next] = seconds
            self._next = (self._next + 1) % _KEPT

    def percentile(self, share: float) -> float | None:
        """Return the latency that `share` percent do not exceed; None if there is none."""
        if not self._values:
            return None
        # A copy: while the memory of an array is lent to numpy, nothing can be added to it.
        return float(np.percentile(np.frombuffer(self._values[:], np.float64), share))


@dataclass(frozen=True, kw_only=True)
class WatchSummary:
    """What watching came to so far.

    Attributes:
        stream_s: how far the stream has come, in seconds.
        frames: frames that came out of the decoder.
        packets_lost: packets that could not be decoded.
        frames_skipped: frames left undecoded because decoding fell behind.
        clips: clips encoded.
        clips_dropped: clips whose frame was left out because encoding fell behind; a later
            frame takes the place of each.
        answers: how often the queries were asked.
        answers_skipped: clips after which they were not, because a newer clip was there already.
        opened: moments that opened.
        closed: moments that closed.
        reconnects: how often the source was lost and came back.
        gaps_s: how much of the stream is missing in all.
        latency_p50_s: median of the time from a frame's arrival to the first answer that it has
            a part in; None before the first.
        latency_p95_s: 95 percent of them are no longer.
        clip_s: seconds of a clip, to compare with.
    """

    stream_s: float
    frames: int
    packets_lost: int
    frames_skipped: int
    clips: int
    clips_dropped: int
    answers: int
    answers_skipped: int
    opened: int
    closed: int
    reconnects: int
    gaps_s: float
    latency_p50_s: float | None
    latency_p95_s: float | None
    clip_s: float
