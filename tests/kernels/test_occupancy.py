"""How the launches of one query fill the GPUs that people have."""

from __future__ import annotations

import pytest

from kernels.frame_step import ROWS, frame_step_tiling
from kernels.occupancy import MULTIPROCESSORS, share_of_gpu, waves
from kernels.time_step import time_step_tiling

CLIPS = (1, 37, 75, 150, 300, 1_000)


def frame_programs(clips: int, multiprocessors: int) -> int:
    span = frame_step_tiling(
        clips=clips,
        queries=1,
        patches=50,
        length=12,
        width=256,
        itemsize=2,
        multiprocessors=multiprocessors,
    ).span
    return -(-clips // span)


@pytest.mark.parametrize("gpu", MULTIPROCESSORS)
@pytest.mark.parametrize("clips", CLIPS)
def test_frame_step_runs_in_the_fewest_waves(gpu: str, clips: int) -> None:
    """A program takes ROWS clips at most, whose time grows with them: fewer waves need more."""
    count = MULTIPROCESSORS[gpu]
    programs = frame_programs(clips, count)
    assert waves(programs, count) == max(1, -(-clips // (ROWS * count)))


@pytest.mark.parametrize("gpu", MULTIPROCESSORS)
def test_frame_step_spreads_over_the_gpu(gpu: str) -> None:
    """With as many clips as multiprocessors or more, at least half of them work."""
    count = MULTIPROCESSORS[gpu]
    assert frame_programs(75, count) == min(75, -(-75 // -(-75 // count)))
    for clips in (count, 2 * count - 1, 150, 1_000):
        if clips >= count:
            assert share_of_gpu(frame_programs(clips, count), count) >= 0.5


def test_time_step_fills_few_multiprocessors_at_75_clips() -> None:
    """Known and stated: tensor cores take 16 rows at least, so 75 clips are 5 programs."""
    tiling = time_step_tiling(clips=75, queries=1, width=256, itemsize=2)
    programs = -(-75 // tiling.rows)
    assert programs == 5
    assert share_of_gpu(programs, MULTIPROCESSORS["H200"]) == pytest.approx(5 / 132)


@pytest.mark.parametrize(
    ("programs", "blocks", "expected"), [(1, 1, 1), (132, 1, 1), (133, 1, 2), (264, 2, 1)]
)
def test_waves(programs: int, blocks: int, expected: int) -> None:
    assert waves(programs, 132, blocks=blocks) == expected
