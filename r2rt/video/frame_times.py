"""When a decoded frame is presented, where its own timestamp does not say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

__all__ = ["TimeGuesser", "Timing"]

Timing = Literal["presentation", "decoding", "order"]


class TimeGuesser:
    """Times of frames that come out in order of presentation, as the ffmpeg program guesses them.

    By `timing` "presentation", presentation times are believed until they have run backwards more
    often than decoding times; then the decoding time that came with the frame is (this is what
    FFmpeg calls the best-effort timestamp). By "decoding" that is so from the beginning. By "order"
    the frames' own times are not looked at: the first to come out has the first of `times`. Without
    a time, one frame follows the other.

    Args:
        frame_duration: how long a frame lasts that does not say so.
        timing: what to believe.
        times: with "order", the times of all frames, ascending.
    """

    def __init__(
        self, frame_duration: int, timing: Timing = "presentation", times: Sequence[int] = ()
    ) -> None:
        self._duration = frame_duration
        self._timing = timing
        self._times = iter(times)
        self._pts_faults = self._dts_faults = 0
        self._last_pts: int | None = None
        self._last_dts: int | None = None
        self._expected = 0

    def guess(self, frame: VideoFrame) -> int:
        """Return the time of the frame that comes out next."""
        time = self._stored_time(frame)
        if time is None:
            time = self._expected
        self._expected = time + (frame.duration or self._duration)
        return time

    def _stored_time(self, frame: VideoFrame) -> int | None:
        if self._timing == "order":
            return next(self._times, None)
        pts = frame.pts if self._timing == "presentation" else None
        dts = frame.dts
        if dts is not None:
            self._dts_faults += self._last_dts is not None and dts <= self._last_dts
        if pts is not None:
            self._pts_faults += self._last_pts is not None and pts <= self._last_pts
        if pts is not None or dts is not None:
            self._last_dts = pts if dts is None else dts
            self._last_pts = dts if pts is None else pts
        is_trusted = dts is None or self._pts_faults <= self._dts_faults
        return pts if pts is not None and is_trusted else dts
