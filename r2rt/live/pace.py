"""How far behind its stream a reader is, and how far ahead."""

from __future__ import annotations

__all__ = ["Pace"]

# Clocks of cameras and hosts drift apart by up to 100 parts in a million, seconds a day.
_DRIFT = 200e-6


class Pace:
    """Compares when frames arrive with when they are presented.

    A stream that keeps its rate has a constant difference between the two. `lag_s` is how much
    later than at best it arrives now; `lead_s` how much sooner than the first frame promised.
    Both forget slowly, faster than clocks drift apart and slower than anything else. A stream that
    comes in bursts has no constant difference, but its reader waits for the next burst.
    """

    def __init__(self) -> None:
        self._best: float | None = None
        self._first = 0.0
        self._last_s = 0.0
        self.lag_s = 0.0
        self.lead_s = 0.0

    def see(self, arrival_s: float, time_s: float) -> None:
        """Take in a frame that arrived at `arrival_s` and is presented at `time_s`."""
        offset = arrival_s - time_s
        if self._best is None:
            self._best = self._first = offset
        else:
            drift = _DRIFT * max(arrival_s - self._last_s, 0.0)
            self._best = min(self._best + drift, offset)
            self._first += max(-drift, min(drift, offset - self._first))
        self._last_s = arrival_s
        self.lag_s = offset - self._best
        self.lead_s = self._first - offset

    def catch_up(self) -> None:
        """Lag no more: the reader had to wait for the newest frame, however late that came."""
        if self._best is not None:
            self._best += self.lag_s
        self.lag_s = 0.0
