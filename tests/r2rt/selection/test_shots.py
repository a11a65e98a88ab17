"""Shots: planted borders are found, the optimum is the optimum, nothing is too long."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from r2rt import Grounder
from r2rt.selection.shots import _penalty, clip_features, find_shots, video_shots

Floats = NDArray[np.float64]


def planted(lengths: list[int], noise: float, seed: int = 0, width: int = 16) -> Floats:
    """Unit vectors about one direction a shot, all of them near a common one, as CLIP's are."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=width)
    rows = [
        common + 0.5 * rng.normal(size=width) + noise * rng.normal(size=(length, width))
        for length in lengths
    ]
    features = np.concatenate(rows)
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("lengths", [[5, 9, 4], [1, 1, 7, 2, 3], [30], [12, 12], [20, 1, 20]])
def test_planted_borders_are_found(lengths: list[int], noise: float) -> None:
    for seed in range(5):
        features = planted(lengths, noise, seed)
        assert find_shots(features, max_clips=40) == [0, *itertools.accumulate(lengths)]


def test_noise_alone_has_no_borders() -> None:
    for width in (16, 64, 256):
        for seed in range(10):
            features = planted([75], 0.3, seed, width)
            assert find_shots(features, max_clips=75) == [0, 75]


def test_long_shots_are_cut_and_no_more_often_than_they_must() -> None:
    assert len(find_shots(planted([100], 0.0), max_clips=10)) == 11
    borders = find_shots(planted([50, 50], 0.02), max_clips=30)
    assert 50 in borders
    assert len(borders) == 5
    assert max(np.diff(borders)) <= 30


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_no_other_borders_cost_less(count: int, max_clips: int, seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(count, 3))
    sums = np.concatenate([np.zeros((1, 3)), np.cumsum(features, axis=0)])
    squares = np.concatenate([[0.0], np.cumsum(np.square(features).sum(axis=1))])
    penalty = _penalty(features, sums, squares)

    def cost(borders: list[int]) -> float:
        shots = [features[a:b] for a, b in itertools.pairwise(borders)]
        return sum(float(np.square(shot - shot.mean(axis=0)).sum()) + penalty for shot in shots)

    inner = range(1, count)
    others = [
        [0, *chosen, count]
        for size in range(count)
        for chosen in itertools.combinations(inner, size)
        if max(np.diff([0, *chosen, count])) <= max_clips
    ]
    found = find_shots(features, max_clips=max_clips)
    assert found in others
    assert cost(found) == pytest.approx(min(map(cost, others)))


def test_a_single_clip_and_clips_that_say_nothing() -> None:
    assert find_shots(np.ones((1, 4)), max_clips=5) == [0, 1]
    assert find_shots(np.zeros((4, 4)), max_clips=5) == [0, 4]


def test_a_frame_that_changes_begins_a_shot(tiny_grounder: Grounder) -> None:
    """From pixels: three still pictures, 4, 1 and 6 clips long."""
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 255, (40, 40, 3)) * [1, 0.5, 0.2] for _ in range(3)]
    pictures[1] = 255 - pictures[1][..., ::-1]
    pictures[2][:20] = 0
    frames = np.stack(
        [pictures[index] for index, length in enumerate((4, 1, 6)) for _ in range(length)]
    ).astype(np.uint8)
    video = tiny_grounder.encode_frames(frames, tiny_grounder.bundle.fps)
    dims = tiny_grounder.bundle.dims
    features = clip_features(video, dims)
    assert features.shape == (11, dims.width)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1)
    assert video_shots(video, dims, max_s=60) == [0, 4, 5, 11]
    assert video_shots(video, dims, max_s=8)[-1] == 11
    assert max(np.diff(video_shots(video, dims, max_s=8))) == 4
