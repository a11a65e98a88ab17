"""Merging the moments of windows, against the rules followed a moment at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from r2rt.grounding.moments import suppress
from r2rt.grounding.windows import Window, WindowSize, merge_moments, plan_windows
from r2rt.model.manifest import Nms

CLIP_S = 2.0
Rows = NDArray[np.float64]


def spans_of(windows: Sequence[Window]) -> Rows:
    return np.array([(x.start_clip, x.end_clip) for x in windows]) * CLIP_S


def iou_of(a: Sequence[float], b: Sequence[float]) -> float:
    common = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - common
    return common / union if union else 0.0


def merged_slowly(found: Sequence[Rows], windows: Sequence[Window]) -> list[list[float]]:
    """The rules of the module's beginning, a moment at a time: start s, end s, score."""
    borders = spans_of(windows).tolist()
    near_s = 1.001 * CLIP_S
    moments = [[list(row) for row in part.tolist()] for part in found]
    cut_start = [
        [row[0] - w[0] <= near_s for row in m] for m, w in zip(moments, borders, strict=True)
    ]
    cut_end = [
        [w[1] - row[1] <= near_s for row in m] for m, w in zip(moments, borders, strict=True)
    ]
    gone: set[tuple[int, int]] = set()
    for earlier, later in combinations(range(len(windows)), 2):
        low, high = borders[later][0], borders[earlier][1]
        if low >= high:
            continue

        def seen_by_both(row: Sequence[float], low: float = low, high: float = high) -> list[float]:
            return [min(max(time, low), high) for time in row[:2]]

        before, behind = ([list(row) for row in moments[window]] for window in (earlier, later))
        same = {
            (i, j)
            for i, a in enumerate(before)
            for j, b in enumerate(behind)
            if (earlier, i) not in gone
            and (later, j) not in gone
            and iou_of(seen_by_both(a), seen_by_both(b)) >= 0.5
        }
        heir_of = {}
        for i, a in enumerate(before):
            heirs = [j for j, b in enumerate(behind) if (i, j) in same and b[2] >= a[2] / 2]
            if cut_end[earlier][i] and heirs:
                heir_of[i] = max(heirs, key=lambda j: behind[j][2])
                gone.add((earlier, i))
        for j, b in enumerate(behind):
            halves = [i for i, heir in heir_of.items() if heir == j]
            if not cut_start[later][j]:
                continue
            if halves:
                half = before[max(halves, key=lambda i: before[i][2])]
                moments[later][j] = [half[0], b[1], max(half[2], b[2])]
                cut_start[later][j] = False
            elif any(
                (i, j) in same and not cut_end[earlier][i] and a[2] >= b[2] / 2
                for i, a in enumerate(before)
            ):
                gone.add((later, j))
    left = [
        (row, window)
        for window, part in enumerate(moments)
        for i, row in enumerate(part)
        if (window, i) not in gone
    ]

    def rank(item: tuple[list[float], int]) -> tuple[float, float, float]:
        (start, end, score), window = item
        return -score, -min(start - borders[window][0], borders[window][1] - end), start

    kept: list[tuple[list[float], int]] = []
    for row, window in sorted(left, key=rank):
        if all(window == other or iou_of(row, one) < 0.5 for one, other in kept):
            kept.append((row, window))
    answer = []
    for (start, end, score), _ in kept:
        scores = []
        for part, (low, high) in zip(found, borders, strict=True):
            if low <= start and end <= high:
                ious = [iou_of((start, end), row) for row in part.tolist()]
                best = int(np.argmax(ious)) if ious else 0
                scores.append(part[best, 2] if ious and ious[best] >= 0.5 else 0.0)
        answer.append([start, end, float(np.mean(scores)) if scores else score])
    return sorted(answer, key=lambda row: -row[2])


@pytest.mark.parametrize(
    "windows",
    [
        plan_windows(150, WindowSize(clips=75, overlap=38)),
        plan_windows(125, WindowSize(clips=75, overlap=50)),
        plan_windows(40, WindowSize(clips=10, overlap=7)),
        plan_windows(30, WindowSize(clips=10, overlap=0)),
    ],
    ids=["half", "three overlap", "many overlap", "none overlap"],
)
def test_merging_is_that_of_the_rules_a_moment_at_a_time(windows: Sequence[Window]) -> None:
    nothing_is_suppressed, softly = Nms(kind="normal", iou_threshold=2), Nms(kind="linear")
    for seed in range(30):
        rng = np.random.default_rng(seed)
        video_s = windows[-1].end_clip * CLIP_S
        # A few moments, on and between borders, that every window sees nearly or not.
        edges = np.concatenate([spans_of(windows).ravel(), rng.uniform(0, video_s, 8).round()])
        truth = np.sort(rng.choice(edges, (6, 2)), axis=1)
        found = []
        for start_s, end_s in spans_of(windows).tolist():
            part = truth[rng.random(len(truth)) < 0.8]
            part = part + rng.integers(-4, 5, part.shape) * rng.choice([0, 0.5, 1.0])
            part = part.clip(start_s, end_s)
            part = part[part[:, 1] > part[:, 0]]
            scores = np.sort(rng.integers(1, 9, len(part)) / 8)[::-1]
            found.append(np.column_stack([part, scores]))
        want = np.reshape(merged_slowly(found, windows), (-1, 3))
        for nms in (nothing_is_suppressed, softly):
            got = merge_moments(found, spans_of(windows), clip_s=CLIP_S, unit_s=None, nms=nms)
            expected = suppress(want, nms)
            np.testing.assert_allclose(got, expected, rtol=1e-12, err_msg=f"seed {seed}")
