"""The packet index: what a video holds, from one pass over its packets without decoding.

It is a few compact arrays, 28 bytes a packet (12 MB for two hours at 60 frames a second), whatever
the resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2rt.video.container import exact
from r2rt.video.frame_times import TimeGuesser, Timing
from r2rt.video.leaps import LONGEST_GAP_S
from r2rt.video.packet_flags import (
    CLOSED,
    DISPOSABLE,
    ENTRY,
    FIELD,
    HIDDEN,
    TEMPORAL_SHIFT,
    UNSAFE,
)
from r2rt.video.scan import NO_PTS, Scan, scan_packets

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

    from r2rt.video.demux import Demuxer
    from r2rt.video.first import FirstFrame

__all__ = ["PacketIndex", "index_packets"]

# Formats of broadcast recordings: frames lost in transmission leave a gap.
_BROADCAST_FORMATS = frozenset(("mpegts", "mpeg"))
_STEPS_FOR_A_RATE, _SHARE_OF_USUAL_STEPS = 10, 0.8
# What is missing is reported from one gap of more than so many frames, or from this share of all.
_LOST_STEPS, _LOST_SHARE = 5, 0.02
# Codecs that may reorder frames. In AVI and OGM (Ogg that holds such a codec) packets have no
# presentation times, and those that FFmpeg makes up belong to other frames.
REORDERING_CODECS = frozenset(("h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video", "vc1"))


@dataclass(frozen=True, kw_only=True)
class PacketIndex:
    """Every packet of a video stream, in decoding order.

    Attributes:
        time_base: seconds of one unit of a timestamp.
        start_pts: where the container starts, the zero of the source's clock.
        pts: (N,) int64 presentation times. Where `unusable` is set, the best guess there is.
        dts: (N,) int64 decoding times, `NO_PTS` where unknown.
        entry: (N,) bool: decoding may begin here.
        closed: (N,) bool: an entry point at which a decoder needs no reset to begin anew.
        disposable: (N,) bool: no other frame depends on it.
        shown: (N,) bool: it yields a frame that is presented.
        end_pts: where the last frame ends.
        frame_duration: how long a frame lasts by the stream's rate, at least 1.
        unusable: why the index cannot say which packets a frame needs; None if it can.
        timing: what gives a decoded frame's presentation time: its own presentation time, the
            decoding time of the packet that it came out with, or its place in the order of output.
        leaps: how many leaps of the clock were closed; see `r2rt.video.leaps`.
        leaps_s: the sum of these leaps, in seconds.
        damaged: packets that the container marks as damaged.
        lost_at_start: frames before the first that decodes, which depend on what is not there.
        missing_s: how long a broadcast or a broken file of constant rate has no frames, in seconds.
    """

    time_base: Fraction
    start_pts: int
    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    entry: NDArray[np.bool_]
    closed: NDArray[np.bool_]
    disposable: NDArray[np.bool_]
    shown: NDArray[np.bool_]
    end_pts: int
    frame_duration: int
    unusable: str | None
    timing: Timing = "presentation"
    leaps: int = 0
    leaps_s: float = 0.0
    damaged: int = 0
    lost_at_start: int = 0
    missing_s: float = 0.0

    def __len__(self) -> int:
        return len(self.pts)

    def time_guesser(self) -> TimeGuesser:
        """Return what gives the presentation times of decoded frames in one pass."""
        times = np.sort(self.pts[self.shown]).tolist() if self.timing == "order" else ()
        return TimeGuesser(self.frame_duration, self.timing, times)


def index_packets(
    demuxer: Demuxer,
    see: Callable[[Packet[VideoStream]], None] | None = None,
    *,
    first: FirstFrame | None = None,
    broken: bool = False,
) -> PacketIndex:
    """Read every packet of the stream once, from its beginning, and decode none.

    Args:
        demuxer: a file that has not been read from yet.
        see: is shown every packet, for those who need a look at the first ones.
        first: decodes up to the first frame on the way, which shows what lies before it.
        broken: the container's parts do not fit together; see `r2rt.video.structure`.
    """
    scan = scan_packets(demuxer, [look for look in (see, first and first.see) if look])
    frame = None if first is None else first.found()
    stream = demuxer.stream
    time_base = exact(stream.time_base) or Fraction(1, 90_000)
    codec = stream.codec_context.codec.canonical_name
    shown = _shown(scan)
    timing = _timing(demuxer, scan, shown, codec)
    duration = _frame_duration(stream, time_base, timing)
    unusable = _why_unusable(demuxer, scan, shown, codec, timing)
    times = _times(scan, timing, duration, shown)
    if timing == "decoding" and frame is not None and frame.dts is not None and len(times):
        times += max(frame.dts - int(times[0]), 0)  # what the decoder holds back
    start_pts = _rescale_us(demuxer.container.start_time or 0, time_base)

    lost = 0
    if frame is not None and frame.pts is not None and timing == "presentation":
        # Frames come out in order of presentation: what lies before the first never does.
        before = shown & (times < frame.pts)
        lost = int(before.sum())
        shown &= ~before
    leaps, leaps_s = demuxer.leaps, float(demuxer.leaps_closed * time_base)
    if shown.any():
        begin = int(times[shown].min())
        if (begin - start_pts) * time_base > LONGEST_GAP_S:
            leaps, leaps_s = leaps + 1, leaps_s + float((begin - start_pts) * time_base)
            start_pts = begin
    disposable, entry = _dependencies(scan, codec)
    return PacketIndex(
        time_base=time_base,
        start_pts=start_pts,
        pts=times,
        dts=scan.dts,
        entry=entry,
        closed=(scan.flags & CLOSED) != 0,
        disposable=disposable,
        shown=shown,
        end_pts=_end_pts(times, scan.durations, shown, duration, time_base),
        frame_duration=duration,
        unusable=unusable,
        timing=timing,
        leaps=leaps,
        leaps_s=leaps_s,
        damaged=scan.damaged,
        lost_at_start=lost,
        missing_s=(
            float(_missing(times[shown]) * time_base)
            if broken or demuxer.container.format.name in _BROADCAST_FORMATS
            else 0.0
        ),
    )


def _missing(times: NDArray[np.int64]) -> int:
    """Return how many units of time lack their frames in a stream of constant rate.

    Fewer than a fiftieth are not counted, except where more than five are missing in a row.

    In a stream of another kind a long step says nothing: the frame before it lasts so long.
    """
    steps = np.diff(np.unique(times))
    if len(steps) < _STEPS_FOR_A_RATE:
        return 0
    usual = int(np.median(steps))
    if np.mean(np.abs(steps - usual) <= max(usual // 10, 1)) < _SHARE_OF_USUAL_STEPS:
        return 0
    long = steps[2 * steps >= 3 * usual]
    missing = int(long.sum() - len(long) * usual)
    is_much = steps.max() > _LOST_STEPS * usual or missing > _LOST_SHARE * steps.sum()
    return missing if is_much else 0


def _shown(scan: Scan) -> NDArray[np.bool_]:
    """Return (N,) bool: the packets that yield a frame that is presented."""
    shown = ((scan.flags & HIDDEN) == 0) & ~scan.discarded
    # Two fields in a row make one frame, which has the time of the first.
    fields = (scan.flags & FIELD) != 0
    starts = np.flatnonzero(fields & ~np.concatenate(([False], fields[:-1])))
    run = np.arange(len(scan)) - np.repeat(
        np.concatenate(([0], starts)), np.diff(np.concatenate(([0], starts, [len(scan)])))
    )
    return np.asarray(shown & ~(fields & (run % 2 == 1)))


def _timing(demuxer: Demuxer, scan: Scan, shown: NDArray[np.bool_], codec: str) -> Timing:
    if demuxer.has_no_timestamps and (scan.pts[shown] == NO_PTS).any():
        return "order"
    if codec not in REORDERING_CODECS or not (scan.pts != scan.dts).any():
        return "presentation"
    by_container: dict[str, Timing] = {"avi": "decoding", "ogg": "order"}
    return by_container.get(demuxer.container.format.name, "presentation")


def _frame_duration(stream: VideoStream, time_base: Fraction, timing: Timing) -> int:
    """Return how long a frame lasts by the stream's rate."""
    # The average rate of a raw stream is what its demuxer assumes; the codec may know better.
    average, guessed = exact(stream.average_rate), exact(stream.guessed_rate)
    rate = (guessed or average) if timing == "order" else (average or guessed)
    return max(1, round(1 / rate / time_base)) if rate else 1


def _why_unusable(
    demuxer: Demuxer, scan: Scan, shown: NDArray[np.bool_], codec: str, timing: Timing
) -> str | None:
    """Return why everything must be decoded, None if the index shows what each frame needs."""
    times = scan.pts
    entries = ((scan.flags & ENTRY) != 0) & shown
    if not scan.understood:
        return f"dependencies of {codec} frames are not known"
    if (times[shown] == NO_PTS).any():
        return "some packets have no presentation time"
    if timing != "presentation":
        return f"the container has no presentation times for {codec}"
    if demuxer.leaps:
        return "the clock leaps"
    if scan.parameters_change:
        return "the decoder's parameters change on the way"
    if scan.palette_is_rare:
        return "one palette serves several frames"
    if (scan.flags & FIELD).any():
        return "each field comes in a packet of its own"
    if (scan.flags & UNSAFE).any():
        return "packets hold more than one frame"
    if len(np.unique(times[shown])) != int(shown.sum()):
        return "several packets have the same presentation time"
    if (np.diff(times[entries]) <= 0).any():
        return "presentation times run backwards"
    return None


def _dependencies(scan: Scan, codec: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which packets nothing depends on, and where decoding may begin, (N,) bool each."""
    disposable = (scan.flags & DISPOSABLE) != 0
    if codec == "hevc" and len(scan):
        # Unreferenced in its own temporal sub-layer: a higher one may still refer to it.
        temporal = scan.flags >> TEMPORAL_SHIFT & 7
        disposable &= temporal == temporal.max()
    return disposable, (scan.flags & ENTRY) != 0


def _times(
    scan: Scan, timing: Timing, duration: int, shown: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return presentation times; guessed where missing: decoding times, else one after another."""
    counted = np.asarray(np.maximum(np.cumsum(shown) - 1, 0) * duration, np.int64)
    if timing == "order" and (scan.pts[shown] == NO_PTS).any():
        return counted
    if timing == "decoding":
        return np.where(scan.dts == NO_PTS, counted, scan.dts)
    filled = np.where(scan.pts == NO_PTS, scan.dts, scan.pts)
    return np.where(filled == NO_PTS, counted, filled)


def _rescale_us(time_us: int, time_base: Fraction) -> int:
    """Round microseconds to timestamps, halves away from zero."""
    units = abs(Fraction(time_us, 1_000_000) / time_base)
    rounded = (2 * units.numerator + units.denominator) // (2 * units.denominator)
    return rounded if time_us >= 0 else -rounded


def _end_pts(
    times: NDArray[np.int64],
    durations: NDArray[np.int64],
    shown: NDArray[np.bool_],
    usual: int,
    time_base: Fraction,
) -> int:
    """Return where the last frame ends, estimating its duration where the container has none."""
    order = np.flatnonzero(shown)
    if not len(order):
        return 0
    order = order[np.argsort(times[order], kind="stable")]
    last = order[-1]
    duration = int(durations[last])
    if duration * time_base > LONGEST_GAP_S:
        duration = usual
    if duration <= 0:
        duration = int(times[last] - times[order[-2]]) if len(order) > 1 else usual
    return int(times[last]) + duration
