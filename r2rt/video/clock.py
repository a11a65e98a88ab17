"""Integer time: which frame of a source stands for which clip.

The rule is that of ffmpeg's `fps` filter with `round=near:start_time=0`, which made the features
that the published weights were trained on: a frame at time t has the tick round(t · fps), halves
away from zero, and clip n is shown by the last frame whose tick is at most n. That is the last
frame before (n + 1/2) / fps. Clips before the first frame are filled by it, and there are
round(end · fps) clips, where `end` is the end of the last frame.

Time zero is where the container's earliest stream starts, which may be the sound. The ffmpeg
program does the same, with one exception: in formats whose clock may begin anew (MPEG-TS, MPEG-PS,
Ogg) it takes the earliest of the streams that it reads, which with `-an` is the video.

One deviation more: a source shorter than half a clip has one clip here and none in ffmpeg.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClipClock", "ClipSelector", "Selection", "select_offline"]

FrameT = TypeVar("FrameT")


@dataclass(frozen=True, kw_only=True)
class ClipClock:
    """Turns timestamps of a stream into clips.

    Attributes:
        fps: clips a second.
        time_base: seconds of one unit of a timestamp.
        origin_pts: the timestamp at which clip 0 begins.
    """

    fps: Fraction
    time_base: Fraction
    origin_pts: int = 0

    def __post_init__(self) -> None:
        if self.fps <= 0 or self.time_base <= 0:
            raise ValueError(f"fps {self.fps} and time base {self.time_base} must be positive")

    def refined(self, factor: int) -> ClipClock:
        """Return the same clock with a unit `factor` times as fine."""
        return ClipClock(
            fps=self.fps, time_base=self.time_base / factor, origin_pts=self.origin_pts * factor
        )

    def tick(self, pts: int) -> int:
        """Return the tick of a timestamp: its time in clips, rounded, halves away from zero."""
        scale = self.time_base * self.fps
        doubled = 2 * abs(pts - self.origin_pts) * scale.numerator + scale.denominator
        tick = doubled // (2 * scale.denominator)
        return tick if pts >= self.origin_pts else -tick

    def ticks(self, pts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tick of every timestamp; the array form of `tick`."""
        if not len(pts):
            return np.zeros(0, np.int64)
        scale = self.time_base * self.fps
        largest = max(abs(int(pts.max()) - self.origin_pts), abs(int(pts.min()) - self.origin_pts))
        if 2 * largest * scale.numerator + 2 * scale.denominator >= 2**63:
            return np.array([self.tick(int(value)) for value in pts], np.int64)
        delta = pts - self.origin_pts
        doubled = 2 * np.abs(delta) * scale.numerator + scale.denominator
        return np.asarray(np.sign(delta) * (doubled // (2 * scale.denominator)), np.int64)

    def num_clips(self, end_pts: int) -> int:
        """Return how many clips a source has whose last frame ends at `end_pts`; at least one."""
        return max(1, self.tick(end_pts))

    def time_s(self, pts: int) -> float:
        """Return a timestamp's time in seconds since the beginning of clip 0."""
        return float((pts - self.origin_pts) * self.time_base)

    def pts_of(self, time_s: Fraction) -> int:
        """Return the timestamp nearest to a time since the beginning of clip 0."""
        units = time_s / self.time_base
        return self.origin_pts + (2 * units.numerator + units.denominator) // (
            2 * units.denominator
        )


@dataclass(frozen=True)
class Selection(Generic[FrameT]):
    """A frame and the clips that it stands for: `count` of them from `clip_index` on."""

    frame: FrameT
    clip_index: int
    count: int


class ClipSelector(Generic[FrameT]):
    """The same rule for frames that arrive one by one, in order of presentation.

    A frame is handed out as soon as the next one shows that it is the one for its clips, so one
    frame is held at a time. A frame whose time runs backwards replaces the one held, as in ffmpeg.
    """

    def __init__(self, clock: ClipClock) -> None:
        self._clock = clock
        self._held: FrameT | None = None
        self._end_pts = clock.origin_pts
        self._next_clip = 0

    @property
    def clips(self) -> int:
        """How many clips have been handed out."""
        return self._next_clip

    def push(self, frame: FrameT, pts: int, duration: int = 0) -> Selection[FrameT] | None:
        """Take the next frame; return the one before it if that stands for any clip.

        Args:
            frame: any object that represents the frame.
            pts: when it is presented, in units of the clock's time base.
            duration: for how long, 0 if unknown. It matters for the last frame alone.
        """
        selection = self._hand_out(self._clock.tick(pts))
        self._held = frame
        self._end_pts = pts + duration
        return selection

    def refine(self, factor: int) -> None:
        """Take timestamps in a unit `factor` times as fine from now on."""
        self._clock = self._clock.refined(factor)
        self._end_pts *= factor

    def finish(self, end_pts: int | None = None) -> Selection[FrameT] | None:
        """End the source, at `end_pts` or with its last frame; return what is left to show."""
        end = self._end_pts if end_pts is None else end_pts
        selection = self._hand_out(self._clock.num_clips(end))
        self._held = None
        return selection

    def _hand_out(self, stop: int) -> Selection[FrameT] | None:
        if self._held is None or stop <= self._next_clip:
            return None
        selection = Selection(self._held, self._next_clip, stop - self._next_clip)
        self._next_clip = stop
        return selection


def select_offline(ticks: NDArray[np.int64], num_clips: int) -> NDArray[np.int64]:
    """Return for each clip the position of the frame that stands for it.

    Args:
        ticks: (F,) int64 ticks of all frames, ascending, F >= 1.
        num_clips: how many clips there are.

    Returns:
        (num_clips,) int64 positions in `ticks`, ascending.
    """
    last = np.searchsorted(ticks, np.arange(num_clips), side="right") - 1
    return np.asarray(np.maximum(last, 0), np.int64)
