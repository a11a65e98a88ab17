"""Sizes with units, and the ceiling of an encoded video's memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from r2rt.errors import MemoryLimitError, QueryError
from r2rt.grounding.growing_array import GrowingArray
from r2rt.grounding.tokens import TokenBuffer
from r2rt.memory import machine_memory, max_memory, parse_bytes
from r2rt.model.contract import ModelDims
from tests.r2rt.bundles import DIMS
from tests.r2rt.cli.test_ground import QUERY, run
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        ("4G", 4 << 30),
        ("4 GiB", 4 << 30),
        ("1.5mb", 3 << 19),
        (" 2k ", 2048),
        ("1T", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text, what="x") == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1e9", "4X", "nan", "1" * 1000, "4G4G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(QueryError, match=r"x: .* is no size; expected bytes or units"):
        parse_bytes(text, what="x")


def test_the_default_is_half_of_the_machines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("R2RT_MAX_MEMORY", raising=False)
    assert max_memory() == machine_memory() // 2
    total = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert total is not None
    assert 0 < machine_memory() <= int(total[1]) * 1024
    monkeypatch.setenv("R2RT_MAX_MEMORY", "3M")
    assert max_memory() == 3 << 20


def test_an_array_stops_at_its_limit() -> None:
    with pytest.raises(MemoryLimitError, match=r"11 clips take .* raise --max-memory"):
        GrowingArray((25,), 11, max_bytes=1000)
    array = GrowingArray((25,), 8, max_bytes=1000)
    array.reserve(9, used=8)  # would take half as much again, were there no limit
    assert 9 <= len(array.rows) <= 10
    array.reserve(10, used=9)
    with pytest.raises(MemoryLimitError):
        array.reserve(11, used=10)


class Encoder:
    """An engine whose tokens are the mean of their frame."""

    frame_batch = 4

    def run(self, graph: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        frames = inputs["frames"].astype(np.float32).mean(axis=(1, 2, 3))
        dims: ModelDims = DIMS
        shape = (len(frames), dims.layers, dims.patches, dims.token_width)
        return {"tokens": np.broadcast_to(frames[:, None, None, None], shape)}


def test_a_repeated_frame_takes_no_memory_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rows beyond the memory limit lie in a file, and are not in memory while they are written."""
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path))
    monkeypatch.setattr("r2rt.grounding.growing_array.IN_MEMORY_BYTES", 1 << 20)
    clips = 400_000  # 160 MB
    buffer = TokenBuffer(Encoder(), DIMS, expected_clips=clips)  # type: ignore[arg-type]
    size = DIMS.image_size
    before = resident_bytes()
    buffer.add(np.full((size, size, 3), 7, np.uint8), clips - 1)
    buffer.add(np.full((size, size, 3), 9, np.uint8))
    tokens = buffer.tokens()
    assert resident_bytes() - before < 40 << 20
    assert len(tokens) == clips
    assert tokens[0, 0, 0, 0] == tokens[-2, -1, -1, -1] == 7
    assert tokens[-1].min() == 9


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_command_says_it_in_one_line() -> None:
    options = ("-m", DEMO_BUNDLE, "--no-cache")
    result = run("ground", DEMO_VIDEO, QUERY, *options, "--max-memory", "1k")
    assert result.returncode == 32
    assert "raise --max-memory" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    result = run("ground", DEMO_VIDEO, QUERY, *options, "--max-memory", "much")
    assert result.returncode == 2
