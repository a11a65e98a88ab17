"""Frames are encoded once: equal ones for nothing, similar ones on request."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from r2rt.errors import QueryError
from r2rt.grounding.tokens import TokenBuffer, difference
from r2rt.model.contract import VIDEO_ENCODER
from tests.r2rt.fakes import DIMS, FakeEngine, fake_grounder

SIZE = DIMS.image_size


def frame(level: int) -> NDArray[np.uint8]:
    return np.full((SIZE, SIZE, 3), level, np.uint8)


@given(levels=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=30))
def test_runs_of_equal_frames_are_encoded_once(levels: list[tuple[int, int]]) -> None:
    engine = FakeEngine()
    buffer = TokenBuffer(engine, replace(DIMS, embedding_width=2), expected_clips=4)
    for level, count in levels:
        buffer.add(frame(level), count)
    clips = [level for level, count in levels for _ in range(count)]
    one_by_one = np.stack([frame(level) for level in clips])
    want = FakeEngine().run(VIDEO_ENCODER, {"frames": one_by_one})["tokens"]
    assert buffer.num_clips == len(clips)
    np.testing.assert_array_equal(buffer.tokens(), want)
    np.testing.assert_array_equal(buffer.embeddings(), [(level, -level) for level in clips])
    assert engine.frames_encoded == 1 + sum(a != b for a, b in itertools.pairwise(clips))
    assert buffer.clips_similar == 0


def test_similar_frames_are_compared_with_the_last_one_encoded() -> None:
    """A slow fade must not be skipped whole, though each frame is like the one before."""
    engine = FakeEngine()
    buffer = TokenBuffer(engine, DIMS, expected_clips=10, skip_similar=2)
    for level in range(10):
        buffer.add(frame(level))
    tokens = buffer.tokens()
    assert engine.frames_encoded == 4  # levels 0, 3, 6, 9
    assert buffer.clips_similar == 6
    expected = np.stack([frame(3 * (n // 3)) for n in range(10)])
    want = FakeEngine().run(VIDEO_ENCODER, {"frames": expected})
    np.testing.assert_array_equal(tokens, want["tokens"])


def test_difference_is_the_worst_block() -> None:
    a = np.full((32, 32, 3), 100, np.uint8)
    b = a.copy()
    assert difference(a, b) == 0
    b[8:16, 16:24] += 30
    assert difference(a, b) == 30
    assert difference(b, a) == 30
    b[8:16, 16:24] = 100
    b[0, 0, 0] = 101
    assert difference(a, b) == pytest.approx(1 / (3 * 64))
    odd = np.zeros((9, 9, 3), np.uint8)
    odd[8, 8] = 12
    assert difference(odd, np.zeros_like(odd)) == 12


def test_similar_clips_are_counted_and_kept_with_the_encoding(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file)
    frames = np.stack([frame(level) for level in (10, 11, 200, 200, 90)])
    exact = grounder.encode_frames(frames, grounder.bundle.fps)
    assert exact.departures.clips_similar == 0
    loose = grounder.encode(frames, source_fps=grounder.bundle.fps, skip_similar=1)
    assert loose.departures.clips_similar == 1
    loose.save(tmp_path / "a.r2rt")
    assert type(loose).load(tmp_path / "a.r2rt").departures.clips_similar == 1
    with pytest.raises(QueryError, match="from 0 to 255 levels, got 256"):
        grounder.encode(frames, source_fps=1, skip_similar=256)
