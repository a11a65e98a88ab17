"""What a format with timecodes must know of the video: rate, timecode, length, size."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from r2rt.errors import NoFramesError, QueryError
from r2rt.timecode import drops_frames, format_timecode, parse_timecode
from r2rt.video.remote import RemoteVideo, VideoPath

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from r2rt.video.inspection import FileFacts

__all__ = ["SourceFacts", "assumed_source_facts", "editing_rate", "read_source_facts"]

_NTSC = (24000, 30000, 48000, 60000, 120000)
STANDARD_RATES = tuple(
    sorted(
        [Fraction(n, 1001) for n in _NTSC]
        + [Fraction(n) for n in (10, 12, 15, 24, 25, 30, 48, 50, 60, 90, 100, 120)]
    )
)
# 24 and 23.976 differ by 1e-3; what containers of coarse clocks say differs by less than this.
_SAME_RATE = Fraction(3, 10_000)
# A frame is on the grid of a rate if it is off by no more than this share of a frame, or by the
# resolution of the container's clock.
_OFF_GRID = 0.1
# Everything is on a grid that is fine enough, such as the 1000 a second that some files claim.
_FINEST_GRID = 4


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """A video as an editing program sees it: frames counted from its first.

    Attributes:
        path: the file, or a video at an address.
        rate: frames a second that timecodes count.
        variable: whether the video's own rate varies, so that `rate` is an approximation.
        rate_is_own: whether `rate` is the video's own, or one that was asked for.
        first_frame_s: when the first frame is shown, on the source's clock.
        frames: how many frames the video lasts at `rate`; at least 1.
        start_frame: number that the video's own timecode gives its first frame, 0 without one.
        drop_frame: whether timecodes are drop-frame at rates where there is such.
        width: width in square pixels, upright; None if unknown.
        height: height in square pixels, upright; None if unknown.
        sound_rate: samples a second of the first sound; None if silent or unknown.
        sound_channels: channels of it; 0 if silent or unknown.
        unread_timecode: the video's own timecode where it cannot be understood, so that
            `start_frame` is 0; None otherwise.
    """

    path: VideoPath
    rate: Fraction
    variable: bool
    rate_is_own: bool
    first_frame_s: Fraction
    frames: int
    start_frame: int
    drop_frame: bool
    width: int | None
    height: int | None
    sound_rate: int | None
    sound_channels: int
    unread_timecode: str | None = None

    @property
    def uri(self) -> str:
        """Where the video is."""
        if isinstance(self.path, RemoteVideo):
            return os.fspath(self.path)
        return self.path.absolute().as_uri()

    @property
    def drop(self) -> bool:
        """Whether timecodes are drop-frame."""
        return self.drop_frame and drops_frames(self.rate)

    def span(self, start_s: float, end_s: float) -> tuple[int, int]:
        """Return the frames [first, end) of a span on the source's clock, at least one.

        Cuts move to the nearest boundary of frames, inside the video.
        """
        first, end = (
            min(max(round((Fraction(time_s) - self.first_frame_s) * self.rate), 0), self.frames)
            for time_s in (start_s, end_s)
        )
        first = min(first, self.frames - 1)
        return first, max(end, first + 1)

    def timecode(self, frame: int) -> str:
        """Return the source's timecode of its frame `frame`, counted from 0."""
        return format_timecode(self.start_frame + frame, self.rate, drop=self.drop)

    def at_rate(self, rate: Fraction) -> SourceFacts:
        """Return the facts of the same video, its frames counted at another rate."""
        if rate == self.rate:
            return self
        ratio = rate / self.rate
        start_frame = round(self.start_frame * ratio)
        if self.drop != (self.drop_frame and drops_frames(rate)):
            # The number of a timecode differs then, 01:00:00:00 is 3.6 s before 01:00:00;00.
            start_frame = _carried(self.start_frame, self.rate, rate, drop=self.drop_frame)
        return dataclasses.replace(
            self,
            rate=rate,
            rate_is_own=False,
            frames=max(1, round(self.frames * ratio)),
            start_frame=start_frame,
        )

    def seconds(self, frame: int) -> Fraction:
        """Return how long `frame` frames last."""
        return frame / self.rate


def read_source_facts(
    path: VideoPath,
    *,
    frame_rate: Fraction | None = None,
    drop_frame: bool | None = None,
    video_track: int | None = None,
) -> SourceFacts:
    """Read all packets of a video, decode its first frame, and return its facts.

    Args:
        path: the video.
        frame_rate: the rate to count at; None takes the video's own.
        drop_frame: whether to use drop-frame timecode where there is such; None does, unless the
            video's own timecode does not.
        video_track: which of its video tracks, from 1; None takes the default one.

    Raises:
        SourceNotFoundError: there is no such file.
        NotAVideoError: FFmpeg does not understand it.
        NoVideoStreamError: it has no video stream.
        NoFramesError: no frame can be decoded.
    """
    from r2rt.video.inspection import inspect_file

    facts = inspect_file(path, video_track=video_track)
    index = facts.index
    if not index.shown.any():
        raise NoFramesError(f"{path}: not one frame could be decoded")
    own_rate, variable = _rate(facts)
    rate = frame_rate or own_rate
    start = _start(facts, rate, own_rate)
    start_frame, declared_drop = start or (0, None)
    begin = int(index.pts[index.shown].min())
    lasts_s = (index.end_pts - begin) * index.time_base
    return SourceFacts(
        path=path,
        rate=rate,
        variable=variable,
        rate_is_own=frame_rate is None,
        first_frame_s=(begin - index.start_pts) * index.time_base,
        frames=max(1, round(lasts_s * rate)),
        start_frame=start_frame,
        drop_frame=_drop(drop_frame, declared_drop),
        width=facts.display_size[0],
        height=facts.display_size[1],
        sound_rate=(facts.audio[0].rate or None) if facts.audio else None,
        sound_channels=facts.audio[0].channels if facts.audio else 0,
        unread_timecode=facts.timecodes[0] if facts.timecodes and start is None else None,
    )


def assumed_source_facts(
    path: VideoPath, rate: Fraction, *, duration_s: float, drop_frame: bool | None = None
) -> SourceFacts:
    """Return the facts of a video that is not there, at a rate that was asked for."""
    return SourceFacts(
        path=path,
        rate=rate,
        variable=False,
        rate_is_own=False,
        first_frame_s=Fraction(0),
        frames=max(1, round(Fraction(duration_s) * rate)),
        start_frame=0,
        drop_frame=_drop(drop_frame, None),
        width=None,
        height=None,
        sound_rate=None,
        sound_channels=0,
    )


def editing_rate(rate: Fraction, most: int = 60) -> Fraction:
    """Return a rate, near or a multiple of this one, at which editing programs can count.

    That is a whole number of frames a second, 1 to `most`, or 1000/1001 of one: 120 becomes 60 and
    12.5 becomes 25. Rates below 1 and all others become 25.
    """
    for factor in range(1, 1001) if rate >= 1 else ():
        for other in (rate / factor, rate * factor):
            is_whole = (other * Fraction(1001, 1000)).denominator == 1 or other.denominator == 1
            if is_whole and 1 <= round(other) <= most:
                return other
    return Fraction(25)


def _drop(asked: bool | None, declared: bool | None) -> bool:
    return next((value for value in (asked, declared) if value is not None), True)


def _rate(facts: FileFacts) -> tuple[Fraction, bool]:
    """Return the video's rate and whether it varies; then it is the rate that most of it has."""
    import numpy as np

    index = facts.index
    rates = [simple_rate(rate) for rate in facts.declared_rates]
    pts = np.sort(index.pts[index.shown])
    if len(pts) < 2 or (np.diff(pts) <= 0).any():
        return (rates or [Fraction(25)])[0], False  # no times to judge by
    usual = _usual_rate(pts, index.time_base)
    by_nearness = sorted(STANDARD_RATES, key=lambda rate: abs(rate / usual - 1))
    for rate in (*rates, *by_nearness[:3]):
        if rate <= _FINEST_GRID * usual and _on_grid(pts, index.time_base, rate):
            return rate, False
    nearest = by_nearness[0]
    return (nearest if abs(nearest / usual - 1) < 0.05 else Fraction(max(1, round(usual)))), True


def simple_rate(rate: Fraction) -> Fraction:
    """Return the standard rate that is meant by one measured by a coarse clock, or a plain one."""
    nearest = min(STANDARD_RATES, key=lambda standard: abs(standard / rate - 1))
    return nearest if abs(nearest / rate - 1) < _SAME_RATE else rate.limit_denominator(1001)


def _usual_rate(pts: NDArray[np.int64], time_base: Fraction) -> Fraction:
    """Return the rate of those frames that last about as long as the median one."""
    import numpy as np

    gaps = np.diff(pts)
    middle = float(np.median(gaps))
    usual = gaps[np.abs(gaps - middle) <= 0.25 * middle]
    lasts = Fraction(int(usual.sum()), len(usual)) if len(usual) else Fraction(middle)
    return 1 / (lasts * time_base)


def _on_grid(pts: NDArray[np.int64], time_base: Fraction, rate: Fraction) -> bool:
    """Return whether every frame is at a whole number of frames of this rate."""
    if rate <= 0:
        return False
    import numpy as np

    places = (pts - pts[0]) * float(time_base * rate)
    off = np.abs(places - np.round(places)).max()
    return bool(off <= max(_OFF_GRID, 1.01 * float(time_base * rate)) and off < 0.45)


def _start(facts: FileFacts, rate: Fraction, own_rate: Fraction) -> tuple[int, bool] | None:
    """Return the number of the first frame by the file's own timecode, and whether it drops.

    None where the file has no timecode, or none that can be understood.
    """
    # The asked rate may have no such number, and the own rate of a file with variable frame rate
    # need not be the rate that its drop-frame timecode counts.
    rates = (rate, own_rate, *filter(drops_frames, STANDARD_RATES))
    for text in facts.timecodes:
        for counted in rates:
            with contextlib.suppress(QueryError):
                number, drop = _declared(facts, text, counted)
                return _carried(number, counted, rate, drop=drop), drop
    return None


def _declared(facts: FileFacts, text: str, rate: Fraction) -> tuple[int, bool]:
    # Cameras count 30 in 59.94 frames a second, too: the track's own number shows which it is.
    for frames in (1, 2, 4) if facts.timecode_frame is not None else ():
        with contextlib.suppress(QueryError):
            number, drop = parse_timecode(text, rate / frames)
            if number == facts.timecode_frame:
                return number * frames, drop
    return parse_timecode(text, rate)


def _carried(number: int, counted: Fraction, rate: Fraction, *, drop: bool) -> int:
    """Return the number at another rate of the same hours, minutes, seconds, part of a second."""
    if counted == rate:
        return number
    text = format_timecode(number, counted, drop=drop and drops_frames(counted))
    frames = min(round(int(text[9:]) * rate / counted), max(round(rate), 1) - 1)
    mark = ";" if drop and drops_frames(rate) else ":"
    return parse_timecode(f"{text[:8]}{mark}{frames:02d}", rate)[0]
