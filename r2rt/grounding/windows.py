"""Long videos: overlapping windows of a length that the model knows, merged into one answer.

Each window is grounded as a video of its own. The answers are merged by these rules:

- Two moments of two windows are *the same* if their IoU is 0.5 or more within the common part of
  the windows.
- A moment is *cut* if it comes within a clip of its window's border, unless that is the start or
  end of the video. A cut moment is dropped if a window that sees beyond the border has the same
  moment, with at least half of its score.
- Two same moments that are cut at facing borders are halves of one that is longer than the overlap.
  They are joined: from the start of the earlier to the end of the later, with the better score.
- Of moments of different windows with an IoU of 0.5 or more one is kept: the one with the better
  score, or for equal scores the one farther from its window's borders. Moments of one window are
  suppressed by the model's own rule alone, as in a short video.

So a moment that is not longer than the overlap is found whole, and a longer one is joined.

The final score of a moment is the mean over all windows that contain it. A window contributes the
score of its own best-matching moment, or 0 if none has an IoU of 0.5 or more. (Otherwise the best
of many scores would often be the luckiest.) Saliency is the mean over the windows with the clip.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import QueryError
from r2rt.grounding.moments import interval_iou, place, suppress
from r2rt.model.manifest import Nms

__all__ = [
    "Window",
    "WindowLength",
    "WindowSize",
    "mean_saliency",
    "merge_moments",
    "plan_windows",
    "window_size",
]

Float = NDArray[np.float64]
Bools = NDArray[np.bool_]

# `auto`: as long as the model was trained on, where the video is longer; None: never.
WindowLength: TypeAlias = float | Literal["auto"] | None

_SAME_IOU = 0.5
_TRUSTED = 0.5


@dataclass(frozen=True, order=True)
class Window:
    """Clips from `start_clip` up to `end_clip`."""

    start_clip: int
    end_clip: int

    @property
    def num_clips(self) -> int:
        """How many clips it has."""
        return self.end_clip - self.start_clip


@dataclass(frozen=True, kw_only=True)
class WindowSize:
    """How long windows are and how far one reaches into the next, in clips."""

    clips: int
    overlap: int


def window_size(
    window: WindowLength, overlap_s: float | None, *, model_window_s: float | None, fps: Fraction
) -> WindowSize | None:
    """Return the size of windows in whole clips, or None if the video is not to be split.

    Args:
        window: seconds, `auto` for the model's own, None for the whole video.
        overlap_s: seconds that two windows have in common at least; None for half a window.
        model_window_s: the longest video that the model was trained on; None if unlimited.
        fps: clips a second.

    Raises:
        QueryError: a window is not longer than a clip and than the overlap, or one of them is no
            number of seconds.
    """
    length_s = model_window_s if window == "auto" else window
    if length_s is None:
        # `auto` leaves it to the model whether there are windows that can overlap.
        if overlap_s is not None and window is None:
            raise QueryError(f"overlap of {overlap_s:g} s: of no use without windows")
        return None
    clips = _clips(length_s, fps, "window")
    if clips < 1:
        raise QueryError(f"window of {length_s:g} s: give at least a clip, {float(1 / fps):g} s")
    overlap = clips // 2 if overlap_s is None else _clips(overlap_s, fps, "overlap")
    if not 0 <= overlap < clips:
        raise QueryError(
            f"overlap of {overlap_s:g} s: give 0 or more, and at least a clip "
            f"({float(1 / fps):g} s) less than the window of {length_s:g} s"
        )
    return WindowSize(clips=clips, overlap=overlap)


def plan_windows(num_clips: int, size: WindowSize | None) -> tuple[Window, ...]:
    """Return the windows of a video, in order.

    All have the full length, the last one too: it ends with the video and overlaps by more. So the
    windows but the last do not depend on how long the video is. A video that is no longer than a
    window is one window.
    """
    if size is None or num_clips <= size.clips:
        return (Window(0, num_clips),)
    last = num_clips - size.clips
    starts = [*range(0, last, size.clips - size.overlap), last]
    return tuple(Window(start, start + size.clips) for start in starts)


def mean_saliency(
    windows: Sequence[Window], parts: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return (T,) float32: every clip's mean over the windows that hold it."""
    if len(windows) == 1:
        return parts[0]
    num_clips = windows[-1].end_clip
    total, count = np.zeros(num_clips), np.zeros(num_clips)
    for window, part in zip(windows, parts, strict=True):
        total[window.start_clip : window.end_clip] += part
        count[window.start_clip : window.end_clip] += 1
    return (total / count).astype(np.float32)


def merge_moments(
    boundaries: Sequence[Float],
    spans_s: Float,
    *,
    clip_s: float,
    unit_s: float | None,
    nms: Nms | None,
) -> Float:
    """Return moments (N, 3) of a video from the raw boundaries of its windows, best first.

    Times are in seconds from the video's start. Of one window it makes what `postprocess` does.

    Args:
        boundaries: (M, 3) for each window: start s, end s, score.
        spans_s: (W, 2), where each window starts and ends, in order.
        clip_s: seconds a clip.
        unit_s: times are rounded to multiples of this; None leaves them.
        nms: the suppression to use; without any, nothing is suppressed, cut or joined.
    """
    placed = [
        place(rows, start_s, end_s, unit_s)
        for rows, (start_s, end_s) in zip(boundaries, spans_s.tolist(), strict=True)
    ]
    if nms is None:
        rows = np.concatenate(placed)
        return rows[np.argsort(-rows[:, 2], kind="stable")]
    hard = nms.kind == "normal"
    if hard:
        placed = [suppress(rows, nms) for rows in placed]
    merged = placed[0]
    if len(placed) > 1:
        kept = _without_duplicates(_without_cuts(placed, spans_s, clip_s))
        merged = _with_mean_scores(kept, placed, spans_s)
    return merged if hard else suppress(merged, nms)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Moments of one window.

    Attributes:
        span_s: where the window starts and ends.
        rows: (N, 3) start s, end s, score.
        cut_start: (N,) whether the window's start cuts the moment.
        cut_end: (N,) whether its end does.
        alive: (N,) whether the moment is part of the answer.
    """

    span_s: tuple[float, float]
    rows: Float
    cut_start: Bools
    cut_end: Bools
    alive: Bools

    def margins(self) -> Float:
        """(N,) distance of each moment from the window's nearer border, in seconds."""
        start_s, end_s = self.span_s
        return np.minimum(self.rows[:, 0] - start_s, end_s - self.rows[:, 1])


def _without_cuts(placed: Sequence[Float], spans_s: Float, clip_s: float) -> list[_Rows]:
    """Drop cut moments that another window sees whole, and join those that no window does.

    The video's own start and end cut nothing: no other window goes on there.
    """
    windows = []
    for rows, (start_s, end_s) in zip(placed, spans_s.tolist(), strict=True):
        # A little more than a clip: times are sums of floats.
        near = 1.001 * clip_s
        windows.append(
            _Rows(
                (start_s, end_s),
                rows,
                rows[:, 0] <= start_s + near,
                rows[:, 1] >= end_s - near,
                np.ones(len(rows), bool),
            )
        )
    for first in range(len(windows)):
        for second in range(first + 1, len(windows)):
            if windows[second].span_s[0] >= windows[first].span_s[1]:
                break
            windows[first], windows[second] = _settle(windows[first], windows[second])
    return windows


def _settle(earlier: _Rows, later: _Rows) -> tuple[_Rows, _Rows]:
    """Return two windows after settling what the end of one and the start of the other cut.

    Every decision reads the moments as they were given, so that the order of rows does not matter.
    """
    if not (earlier.cut_end.any() or later.cut_start.any()):
        return earlier, later
    same = _agreement(earlier, later) >= _SAME_IOU
    same &= earlier.alive[:, None] & later.alive
    a, b = earlier.rows[:, 2], later.rows[:, 2]
    # What the end of the earlier window cuts gives way to the best one in the later window.
    heirs = same & earlier.cut_end[:, None] & (b >= _TRUSTED * a[:, None])
    gone = heirs.any(axis=1)
    heir = np.where(heirs, b, -1.0).argmax(axis=1) if len(b) else gone
    rows, cut_start = later.rows.copy(), later.cut_start.copy()
    for j in np.flatnonzero(later.cut_start):
        halves = np.flatnonzero(gone & (heir == j))
        if len(halves):  # both are cut: the halves of one moment
            best = halves[a[halves].argmax()]
            rows[j, 0], rows[j, 2] = earlier.rows[best, 0], max(a[best], b[j])
            cut_start[j] = False
    # What the start of the later window still cuts gives way to one that goes on before it.
    whole = same & ~earlier.cut_end[:, None] & (a[:, None] >= _TRUSTED * b)
    lost = cut_start & whole.any(axis=0)
    return (
        dataclasses.replace(earlier, alive=earlier.alive & ~gone),
        dataclasses.replace(later, rows=rows, cut_start=cut_start, alive=later.alive & ~lost),
    )


def _agreement(earlier: _Rows, later: _Rows) -> Float:
    """Return the IoU (A, B) of two windows' moments within what both windows see."""
    common = later.span_s[0], earlier.span_s[1]
    return interval_iou(earlier.rows[:, :2].clip(*common), later.rows[:, :2].clip(*common))


def _without_duplicates(windows: Sequence[_Rows]) -> Float:
    """Return the moments (N, 3) that duplicate no better one of another window, best first.

    Each row is compared with those alone that start near enough to overlap it, so that the work
    grows with the video's length and not with its square.
    """
    rows = np.concatenate([window.rows[window.alive] for window in windows])
    margin = np.concatenate([window.margins()[window.alive] for window in windows])
    owner = np.repeat(np.arange(len(windows)), [int(window.alive.sum()) for window in windows])
    order = np.argsort(rows[:, 0], kind="stable")
    rows, margin, owner = rows[order], margin[order], owner[order]
    longest = (rows[:, 1] - rows[:, 0]).max(initial=0.0)
    low = np.searchsorted(rows[:, 0], rows[:, 0] - longest, side="left")
    high = np.searchsorted(rows[:, 0], rows[:, 1], side="right")
    alive = np.ones(len(rows), bool)
    ranked = np.lexsort((np.arange(len(rows)), -margin, -rows[:, 2]))
    for index in ranked.tolist():
        if alive[index]:
            near = slice(low[index], high[index])
            iou = interval_iou(rows[None, index, :2], rows[near, :2])[0]
            alive[near] &= (iou < _SAME_IOU) | (owner[near] == owner[index])
    return rows[ranked[alive[ranked]]]


def _with_mean_scores(kept: Float, placed: Sequence[Float], spans_s: Float) -> Float:
    """Return moments (N, 3) with the mean score of the windows that contain each, best first.

    A moment that no window contains, such as a joined one, keeps its score.

    Args:
        kept: moments of the video.
        placed: (M, 3) for each window, its own moments.
        spans_s: (W, 2), where each window starts and ends.
    """
    total, looks = np.zeros((2, len(kept)))
    order = np.argsort(kept[:, 0])
    low = np.searchsorted(kept[order, 0], spans_s[:, 0], side="left")
    high = np.searchsorted(kept[order, 0], spans_s[:, 1], side="right")
    for rows, first, last, end_s in zip(placed, low, high, spans_s[:, 1], strict=True):
        starting = order[first:last]
        whole = starting[kept[starting, 1] <= end_s]
        looks[whole] += 1
        if len(rows):
            iou = interval_iou(kept[whole, :2], rows[:, :2])
            same = iou.max(axis=1) >= _SAME_IOU
            total[whole] += np.where(same, rows[iou.argmax(axis=1), 2], 0.0)
    scored = kept.copy()
    np.divide(total, looks, out=scored[:, 2], where=looks > 0)
    return scored[np.argsort(-scored[:, 2], kind="stable")]


def _clips(length: float | str, fps: Fraction, what: str) -> int:
    try:
        seconds = float(length)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise QueryError(f"{what} {length!r}: give a number of seconds")
    return round(seconds * fps)
