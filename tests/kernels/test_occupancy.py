"""How the launches of one query fill the GPUs that people have.

A multiprocessor holds a fixed number of a kernel's blocks at once. A grid of more blocks than the
GPU holds runs in waves, and a last wave of one block takes as long as a full one.
"""

from __future__ import annotations

import pytest

from kernels.frame_step import ROWS
from kernels.time_step import time_step_tiling

# Enabled multiprocessors (SMs) as the makers' architecture papers give them.
MULTIPROCESSORS = {"L4": 58, "A100": 108, "H100": 132, "H200": 132, "B200": 148}
LAYERS = 4


def waves(programs: int, multiprocessors: int, *, blocks: int = 1) -> int:
    """In how many waves a grid runs if a multiprocessor holds `blocks` at once."""
    return -(-programs // (multiprocessors * blocks))


def share_of_gpu(programs: int, multiprocessors: int) -> float:
    """Which share of the multiprocessors works, over all waves."""
    return programs / (waves(programs, multiprocessors) * multiprocessors)


@pytest.mark.parametrize("gpu", MULTIPROCESSORS)
def test_pooling_fills_every_gpu(gpu: str) -> None:
    """A program a frame and layer: more than one wave of two blocks a multiprocessor."""
    count = MULTIPROCESSORS[gpu]
    for clips in (75, 150, 1_000):
        assert waves(LAYERS * clips, count, blocks=2) >= 2


@pytest.mark.parametrize("gpu", MULTIPROCESSORS)
def test_a_step_is_one_wave_of_rows_that_tensor_cores_fill(gpu: str) -> None:
    """Up to 16 clips a multiprocessor; beyond, the fewest waves."""
    count = MULTIPROCESSORS[gpu]
    for clips in (1, 75, 150, 16 * count, 16 * count + 1):
        assert waves(-(-clips // ROWS), count) == 1 + (clips > 16 * count)


def test_steps_fill_few_multiprocessors_at_75_clips() -> None:
    """Known and stated: tensor cores take 16 rows at least, so 75 clips are 5 programs."""
    tiling = time_step_tiling(clips=75, queries=1, width=256, itemsize=2)
    assert ROWS == tiling.rows == 16
    assert share_of_gpu(-(-75 // ROWS), MULTIPROCESSORS["H200"]) == pytest.approx(5 / 132)


@pytest.mark.parametrize(
    ("programs", "blocks", "expected"), [(1, 1, 1), (132, 1, 1), (133, 1, 2), (264, 2, 1)]
)
def test_waves(programs: int, blocks: int, expected: int) -> None:
    assert waves(programs, 132, blocks=blocks) == expected
