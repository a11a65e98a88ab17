"""A video that is still coming: push frames, ask at any time, get what a file would have given."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import NoFramesError, QueryError
from r2rt.grounding.encoded import EncodedVideo
from r2rt.grounding.options import AnswerOptions
from r2rt.grounding.tokens import TokenBuffer
from r2rt.video import ClipClock, ClipSelector, Departures, FramePreparer
from r2rt.video.container import exact

if TYPE_CHECKING:
    from av import VideoFrame

    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.prediction import Prediction

__all__ = ["ClipWindow", "Stream"]

Frame: TypeAlias = "VideoFrame | NDArray[np.uint8]"
Seconds: TypeAlias = Fraction | float

# Times that are floats are kept in nanoseconds, exact ones exactly, in a common unit of all of them
# unless that is finer than this.
_NANOSECOND = Fraction(1, 10**9)
_FINEST = Fraction(1, 10**18)
_EXPECTED_CLIPS = 64


class Stream:
    """Encodes frames as they are pushed; see `Grounder.stream`.

    Which frame stands for which clip is decided as for a file, so after the last frame the answer
    equals that of `Grounder.ground` on the whole. Time zero is `start_s`, else the first frame's.

    Args:
        grounder: whose model and engine are used.
        name: what results call the source.
        start_s: the time that counts as zero, on the clock of the pushed times; the first frame's
            own time if None.
        window_s: how much is kept, everything if None. Older clips are dropped, and the answer is
            the same as on a video of the rest.
    """

    def __init__(
        self,
        grounder: Grounder,
        *,
        name: str = "<stream>",
        start_s: Seconds | None = None,
        window_s: Seconds | None = None,
    ) -> None:
        self._grounder = grounder
        self._name = name
        self._start_s = start_s
        self._window = ClipWindow(grounder, name=name, window_s=window_s)
        self._prepare = FramePreparer(grounder.bundle.dims.image_size)
        self._selector: ClipSelector[Frame] | None = None
        self._clock: ClipClock | None = None
        self._last_pts = 0
        self._last_step = 0
        self._last_duration = 0
        self._busy_s = 0.0
        self._finished: EncodedVideo | None = None

    @property
    def duration_s(self) -> float:
        """Length of what was pushed so far, in seconds."""
        if self._clock is None:
            return 0.0
        return self._clock.time_s(self._end_pts(self._clock))

    def push(
        self, frame: Frame, time_s: Seconds | None = None, *, duration_s: Seconds | None = None
    ) -> None:
        """Take the next frame, in order of presentation.

        Args:
            frame: a decoded `av.VideoFrame`, or RGB pixels (H, W, 3) uint8, which are copied.
            time_s: when it is presented; a `VideoFrame` brings its own time.
            duration_s: for how long. It matters for the last frame alone; if unknown, that one is
                taken to last as long as the one before it, or a clip if it is the only one.

        Raises:
            QueryError: the stream is finished, or the frame has no time.
        """
        if self._finished is not None:
            raise QueryError("the stream is finished; open another")
        began = time.perf_counter()
        stamp = _stamp(frame, time_s, duration_s)
        if self._clock is None or self._selector is None:
            if self._start_s is not None:
                start = _exact(self._start_s)
                stamp = stamp.rescaled(_common(stamp.time_base, Fraction(1, start.denominator)))
            origin = stamp.pts if self._start_s is None else _ticks(start, stamp.time_base)
            self._clock = ClipClock(
                fps=self._grounder.bundle.fps, time_base=stamp.time_base, origin_pts=origin
            )
            self._selector = ClipSelector(self._clock)
        else:
            unit = _common(self._clock.time_base, stamp.time_base)
            if unit != self._clock.time_base:
                factor = int(self._clock.time_base / unit)
                self._clock = self._clock.refined(factor)
                self._selector.refine(factor)
                self._last_pts *= factor
            stamp = stamp.rescaled(unit)
            self._last_step = stamp.pts - self._last_pts
        # The pixels may be the caller's buffer, filled again before it is known whether this frame
        # is the one for its clip.
        held = frame.copy() if isinstance(frame, np.ndarray) else frame
        chosen = self._selector.push(held, stamp.pts, stamp.duration)
        self._last_pts, self._last_duration = stamp.pts, stamp.duration
        if chosen is not None:
            self._window.add(self._prepare(chosen.frame), chosen.count)
        self._busy_s += time.perf_counter() - began

    def push_frames(self, frames: NDArray[np.uint8], fps: Fraction | float) -> None:
        """Take frames (T, H, W, 3) uint8, one after another at `fps`.

        They begin where the last frame that was pushed ends, at `start_s` if there is none.
        """
        rate = Fraction(fps).limit_denominator(100_000)
        step = 1 / rate
        start = _exact(self._start_s or 0)
        if self._clock is not None:
            start = self._end_pts(self._clock) * self._clock.time_base
        for index, frame in enumerate(frames):
            self.push(frame, start + index * step, duration_s=step)

    @overload
    def ground(  # type: ignore[overload-overlap]
        self, query: str, **options: Unpack[AnswerOptions]
    ) -> Prediction: ...

    @overload
    def ground(
        self, query: Sequence[str], **options: Unpack[AnswerOptions]
    ) -> list[Prediction]: ...

    def ground(
        self, query: str | Sequence[str], **options: Unpack[AnswerOptions]
    ) -> Prediction | list[Prediction]:
        """Answer as if the video ended with the last frame pushed; options as `Grounder.ground`.

        Raises:
            NoFramesError: nothing was pushed yet.
        """
        return self._grounder.ground(self.encoded(), query, **options)

    def encoded(self) -> EncodedVideo:
        """Return what was pushed so far, or the window of it, as an encoded video of its own.

        Raises:
            NoFramesError: nothing was pushed yet.
        """
        if self._finished is not None:
            return self._finished
        if self._selector is None or self._clock is None:
            raise NoFramesError(f"{self._name}: no frame was pushed yet")
        began = time.perf_counter()
        # A copy is ended in place of the selector, which goes on.
        rest = copy.copy(self._selector).finish(self._end_pts(self._clock))
        tail = None if rest is None else (self._prepare(rest.frame), rest.count)
        encoded = self._window.encoded(end_s=self.duration_s, tail=tail)
        self._busy_s += time.perf_counter() - began
        return dataclasses.replace(encoded, encode_s=self._busy_s)

    def finish(self) -> EncodedVideo:
        """End the stream and return all of it; no frame can be pushed afterwards."""
        self._finished = self.encoded()
        return self._finished

    def _end_pts(self, clock: ClipClock) -> int:
        end_pts = self._last_pts + (self._last_duration or self._last_step)
        # One frame of unknown length is a clip, which is no shorter.
        return end_pts if end_pts > clock.origin_pts else clock.pts_of(1 / clock.fps)


class ClipWindow:
    """The tokens of a stream's last clips, in bounded memory.

    Args:
        grounder: whose model and engine are used.
        name: what results call the source.
        window_s: how much is kept, cut to whole clips, at least one; all of it if None.
    """

    def __init__(self, grounder: Grounder, *, name: str, window_s: Seconds | None) -> None:
        self._grounder = grounder
        self._name = name
        fps = grounder.bundle.fps
        self._max_clips = None if window_s is None else max(int(Fraction(window_s) * fps), 1)
        # As many again are forgotten at once, so that a clip is moved once at most.
        room = _EXPECTED_CLIPS if self._max_clips is None else 2 * self._max_clips + 1
        self._buffer = TokenBuffer(grounder.engine, grounder.bundle.dims, expected_clips=room)
        self._clips = 0

    @property
    def clips(self) -> int:
        """How many clips there have been, those forgotten included."""
        return self._clips

    def add(self, pixels: NDArray[np.uint8], count: int = 1) -> None:
        """Add a frame (S, S, 3) uint8 that is used for the next `count` clips."""
        self._clips += count
        most = self._max_clips
        self._buffer.add(pixels, count if most is None else min(count, most))
        if most is not None and self._buffer.num_clips > 2 * most:
            self._buffer.drop_oldest(self._buffer.num_clips - most)

    def encoded(
        self,
        *,
        end_s: float,
        start_s: float = 0.0,
        tail: tuple[NDArray[np.uint8], int] | None = None,
    ) -> EncodedVideo:
        """Return the window as an encoded video of its own.

        Args:
            end_s: where the stream ends for now, in seconds since its first clip began.
            start_s: where its first clip began on the clock that results shall be on.
            tail: a frame and the number of its clips; used for this result only.
        """
        tokens, embeddings = self._buffer.tokens(), self._buffer.embeddings()
        clips = self._clips
        if tail is not None:
            pixels, count = tail
            clips += count
            count = count if self._max_clips is None else min(count, self._max_clips)
            rest = TokenBuffer(
                self._grounder.engine, self._grounder.bundle.dims, expected_clips=count
            )
            rest.add(pixels, count)
            tokens = np.concatenate([tokens, rest.tokens()])
            more = rest.embeddings()
            if embeddings is not None and more is not None:
                embeddings = np.concatenate([embeddings, more])
        if self._max_clips is not None:
            tokens = tokens[-self._max_clips :]
            embeddings = None if embeddings is None else embeddings[-self._max_clips :]
        bundle = self._grounder.bundle
        first_s = float((clips - len(tokens)) / bundle.fps)
        return EncodedVideo(
            tokens=tokens.copy(),
            embeddings=None if embeddings is None else embeddings.copy(),
            model=bundle.manifest.name,
            model_fingerprint=bundle.fingerprint,
            source=self._name,
            duration_s=end_s - first_s,
            start_s=start_s + first_s,
            fps=bundle.fps,
            sampling="exact",
            departures=Departures(),
            encode_s=0.0,
        )


class _Stamp(NamedTuple):
    pts: int
    duration: int
    time_base: Fraction

    def rescaled(self, time_base: Fraction) -> _Stamp:
        if time_base == self.time_base:
            return self
        return _Stamp(
            pts=_ticks(self.pts * self.time_base, time_base),
            duration=_ticks(self.duration * self.time_base, time_base),
            time_base=time_base,
        )


def _stamp(frame: Frame, time_s: Seconds | None, duration_s: Seconds | None) -> _Stamp:
    if time_s is None:
        if isinstance(frame, np.ndarray) or frame.pts is None or frame.time_base is None:
            raise QueryError("the frame brings no time of its own; give time_s")
        base = exact(frame.time_base) or _NANOSECOND
        return _Stamp(pts=frame.pts, duration=frame.duration or 0, time_base=base)
    time, duration = _exact(time_s), _exact(duration_s or 0)
    base = Fraction(1, math.lcm(time.denominator, duration.denominator))
    return _Stamp(pts=int(time / base), duration=int(duration / base), time_base=base)


def _exact(time_s: Seconds) -> Fraction:
    """Return a time as it is kept."""
    if isinstance(time_s, float):
        return round(Fraction(time_s) / _NANOSECOND) * _NANOSECOND
    return Fraction(time_s)


def _common(unit: Fraction, other: Fraction) -> Fraction:
    """Return the largest unit that two are multiples of; `unit` where it is too fine."""
    common = Fraction(
        math.gcd(unit.numerator * other.denominator, other.numerator * unit.denominator),
        unit.denominator * other.denominator,
    )
    return common if common >= _FINEST else unit


def _ticks(time: Fraction, time_base: Fraction) -> int:
    return round(time / time_base)
