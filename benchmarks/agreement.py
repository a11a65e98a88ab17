"""What it means that two pipelines answer alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["same_answers", "same_images", "similar_images"]

# Between two ways to sum in fp32, through a dozen layers.
TIME_S = 1e-3
SCORE = 1e-4
SALIENCY = 2e-4


def same_answers(
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], *, time_s: float = TIME_S
) -> str:
    """Assert that raw boundaries and saliency agree; return how closely.

    Scores may lie so close that their order, or which of them is the last one kept, is left to
    rounding; so every boundary needs a partner among the other side's, unless it is about as bad as
    the last one kept there.
    """
    assert len(ours) == len(theirs), f"{len(ours)} answers against {len(theirs)}"
    worst_time = worst_saliency = 0.0
    for one, other in zip(ours, theirs, strict=True):
        a, b = (np.array(side["saliency"], np.float64) for side in (one, other))
        assert a.shape == b.shape, f"{a.shape[0]} clips against {b.shape[0]}"
        saliency = float(np.abs(a - b).max())
        assert saliency <= SALIENCY, f"saliency differs by {saliency:.2g}, more than {SALIENCY:g}"
        worst_saliency = max(worst_saliency, saliency)
        a, b = (np.array(side["boundaries"], np.float64).reshape(-1, 3) for side in (one, other))
        assert a.shape == b.shape, f"{len(a)} boundaries against {len(b)}"
        for left, right in ((a, b), (b, a)):
            worst_time = max(worst_time, _partners(left, right, time_s))
    return (
        f"boundaries agree to {worst_time:.1g} s, saliency to {worst_saliency:.1g} "
        f"({len(ours)} queries)"
    )


def same_images(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> str:
    """Assert that images (T, S, S, 3) are identical."""
    assert ours.shape == theirs.shape, f"{ours.shape} against {theirs.shape}"
    different = [n for n in range(len(ours)) if not np.array_equal(ours[n], theirs[n])]
    assert not different, f"{len(different)} of {len(ours)} images differ, first {different[0]}"
    return f"{len(ours)} images, bit-identical"


def similar_images(
    ours: NDArray[np.uint8], theirs: NDArray[np.uint8], *, levels: float = 8.0
) -> str:
    """Assert that images show the same, resized or converted by other code.

    Each must lie within a mean of `levels` of 255, and the image it is most like among ours must
    be its own wherever ours differ by more.
    """
    assert ours.shape == theirs.shape, f"{ours.shape} against {theirs.shape}"
    a, b = ours[:, ::2, ::2].astype(np.int16), theirs[:, ::2, ::2].astype(np.int16)
    distance = np.array([np.abs(x - y).mean() for x, y in zip(a, b, strict=True)])
    worst = int(distance.argmax())
    assert distance[worst] <= levels, (
        f"image {worst} differs by {distance[worst]:.1f} levels on average, more than {levels:g}"
    )
    for shift in (-1, 1):
        for n in range(max(0, -shift), len(a) - max(0, shift)):
            neighbour = np.abs(a[n + shift] - b[n]).mean()
            assert neighbour + 1e-9 >= distance[n] or neighbour <= levels / 2, (
                f"image {n} is more like our image {n + shift}"
            )
    return f"{len(ours)} images within {distance[worst]:.1f} of 255 levels on average"


def _partners(left: NDArray[np.float64], right: NDArray[np.float64], time_s: float) -> float:
    """Return the largest time difference between each row of `left` and its partner in `right`."""
    if not len(left):
        return 0.0
    last = right[:, 2].min()
    worst = 0.0
    for row in left:
        times = np.abs(right[:, :2] - row[:2]).max(axis=1)
        times[np.abs(right[:, 2] - row[2]) > SCORE] = np.inf
        nearest = float(times.min())
        if row[2] > last + SCORE:
            assert nearest <= time_s, (
                f"no boundary like {row[0]:.3f} to {row[1]:.3f} s, score {row[2]:.4f}: "
                f"the nearest is {nearest:.3g} s away"
            )
        if nearest <= time_s:
            worst = max(worst, nearest)
    return worst
