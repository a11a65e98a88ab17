"""Arrays larger than memory is given: the same numbers, from a file that leaves no trace."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2rt import EncodedVideo, Grounder
from r2rt.grounding.growing_array import GrowingArray, forget
from tests.r2rt.fakes import FakeEngine, fake_grounder, frames_with_red

pytestmark = pytest.mark.skipif(
    not hasattr(os, "posix_fallocate"), reason="this system cannot set disk space aside"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything beyond 1000 bytes lies in this folder."""
    monkeypatch.setattr("r2rt.grounding.growing_array.IN_MEMORY_BYTES", 1000)
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@given(steps=st.lists(st.integers(1, 40), min_size=1, max_size=12))
@settings(max_examples=40)
def test_rows_stay_as_the_array_grows_into_a_file(cache: Path, steps: list[int]) -> None:
    array, used = GrowingArray((2, 3), 1), 0
    for step in steps:
        array.reserve(used + step, used=used)
        array.rows[used : used + step] = np.arange(used, used + step)[:, None, None]
        used += step
        if array.memory_mapped:
            forget(array.rows)
    np.testing.assert_array_equal(array.rows[:used, 1, 2], np.arange(used))
    assert array.memory_mapped == (array.rows.nbytes > 1000)
    # Nobody can see the file, and it goes when the array does.
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize("first", [1, 60])
def test_a_full_disk_is_no_failure(
    cache: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    array = GrowingArray((2, 3), first)
    array.rows[:first] = 7.0
    assert array.memory_mapped == (first > 1)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    array.reserve(500, used=first)
    assert not array.memory_mapped
    assert (array.rows[:first] == 7.0).all()


def test_what_lies_in_a_file_takes_no_memory_once_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r2rt.grounding.growing_array.IN_MEMORY_BYTES", 1000)
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path))

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    size = 48 << 20
    array = GrowingArray((size // 4 // 64,), 64)
    array.rows[:] = 3.0
    full = resident()
    forget(array.rows[5:9])  # a view stands for the whole
    assert full - resident() > size // 2
    assert array.rows[-1, -1] == 3.0


def test_a_long_video_is_encoded_saved_and_grounded_from_its_file(
    cache: Path, tmp_path: Path, tokenizer_file: Path
) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file, FakeEngine(frame_batch=3))
    values = [index % 251 for index in range(100)]
    frames = frames_with_red(values)
    encoded = grounder.encode_frames(frames, grounder.bundle.fps)
    stream = grounder.stream()
    stream.push_frames(frames, grounder.bundle.fps)
    for video in (encoded, stream.finish()):
        np.testing.assert_array_equal(video.tokens[:, 0, 0, 0], values)
        video.save(tmp_path / "video.r2rt")
        loaded = EncodedVideo.load(tmp_path / "video.r2rt")
        want = grounder.ground(video, "a dog", window=40)
        got = grounder.ground(loaded, "a dog", window=40)
        assert got.moments == want.moments
        np.testing.assert_array_equal(got.saliency, want.saliency)


def test_a_saved_video_may_be_replaced_while_it_is_open(
    tmp_path: Path, tiny_grounder: Grounder
) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 6, 64, 64, 3), dtype=np.uint8)
    first, second = (tiny_grounder.encode_frames(part, 0.5) for part in frames)
    path = tmp_path / "video.r2rt"
    first.save(path)
    opened = EncodedVideo.load(path)
    second.save(path)
    np.testing.assert_array_equal(opened.tokens, first.tokens)
    opened.save(path)
    np.testing.assert_array_equal(EncodedVideo.load(path).tokens, first.tokens)
