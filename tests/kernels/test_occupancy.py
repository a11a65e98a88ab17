"""How the launches of one query fill the GPUs that people have.

A multiprocessor holds a fixed number of a kernel's blocks at once. A grid of more blocks than the
GPU holds runs in waves, and a last wave of one block takes as long as a full one.
"""

from __future__ import annotations

import pytest

from kernels import time_attention
from kernels.budgets import BUDGETS
from kernels.splitting import MOST_PARTS, ROWS, step_parts

# Enabled multiprocessors (SMs) as the makers' architecture papers give them.
MULTIPROCESSORS = {"L4": 58, "A100": 108, "H100": 132, "H200": 132, "B200": 148}
TARGETS = {"L4": 89, "A100": 80, "H100": 90, "H200": 90, "B200": 100}
LAYERS, HEADS = 4, 8


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
def test_a_step_is_one_wave_shared_among_as_many_programs_as_it_has_room_for(gpu: str) -> None:
    """Up to 16 clips a multiprocessor; beyond, the fewest waves."""
    count = MULTIPROCESSORS[gpu]
    for clips in (1, 75, 150, 600, 1_000, 16 * count, 16 * count + 1):
        blocks = -(-clips // ROWS)
        parts = step_parts(clips=clips, queries=1, multiprocessors=count)
        assert waves(blocks * parts, count) == 1 + (blocks > count)
        assert parts == MOST_PARTS or waves(blocks * (parts + 1), count) > 1


@pytest.mark.parametrize("gpu", MULTIPROCESSORS)
def test_several_queries_share_the_gpu(gpu: str) -> None:
    count = MULTIPROCESSORS[gpu]
    alone = step_parts(clips=75, queries=1, multiprocessors=count)
    together = step_parts(clips=75, queries=8, multiprocessors=count)
    assert (alone, together) == (MOST_PARTS, max(1, count // 40))


def test_steps_fill_a_third_of_an_h200_at_75_clips_and_most_of_it_at_1000() -> None:
    """Tensor cores take 16 rows at least: 75 clips are 5 blocks, each shared among 8 programs."""
    count = MULTIPROCESSORS["H200"]
    for clips, programs in ((75, 40), (150, 80), (1_000, 126)):
        parts = step_parts(clips=clips, queries=1, multiprocessors=count)
        assert -(-clips // ROWS) * parts == programs
    assert share_of_gpu(126, count) > 0.95


@pytest.mark.parametrize("gpu", MULTIPROCESSORS)
def test_attention_over_time_is_one_wave(gpu: str) -> None:
    """A program a head and 32 clips; a multiprocessor holds four or five at once."""
    blocks = BUDGETS["time_attention"].blocks[TARGETS[gpu]]
    for clips in (75, 150, 1_000):
        programs = HEADS * -(-clips // time_attention.ROWS)
        assert waves(programs, MULTIPROCESSORS[gpu], blocks=blocks) == 1


def test_the_maps_of_a_query_fill_what_one_query_has() -> None:
    assert waves(LAYERS * HEADS, min(MULTIPROCESSORS.values())) == 1


@pytest.mark.parametrize(
    ("programs", "blocks", "expected"), [(1, 1, 1), (132, 1, 1), (133, 1, 2), (264, 2, 1)]
)
def test_waves(programs: int, blocks: int, expected: int) -> None:
    assert waves(programs, 132, blocks=blocks) == expected
