"""Streaming equals offline, however the frames come and whenever one asks."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from r2rt import EncodedVideo, Grounder, Prediction
from r2rt.errors import NoFramesError, QueryError
from tests.r2rt.conftest import DEMO_VIDEO
from tests.r2rt.fakes import FakeEngine, fake_grounder, frames_with_red

QUERY = "a red ball rolls to the right"


def moments(prediction: Prediction) -> NDArray[np.float64]:
    return np.array([(m.start_s, m.end_s, m.score) for m in prediction.moments])


def assert_same_answer(got: Prediction, want: Prediction) -> None:
    np.testing.assert_allclose(moments(got), moments(want), atol=1e-5)
    np.testing.assert_allclose(got.saliency, want.saliency, atol=1e-5)
    assert got.duration_s == pytest.approx(want.duration_s)


def test_the_frames_of_a_file_pushed_one_by_one(tiny_grounder: Grounder) -> None:
    want = tiny_grounder.ground(DEMO_VIDEO, QUERY)
    stream = tiny_grounder.stream()
    with av.open(str(DEMO_VIDEO)) as container:
        for frame in container.decode(video=0):
            stream.push(frame)
    assert_same_answer(stream.ground(QUERY), want)
    np.testing.assert_allclose(
        stream.finish().tokens, tiny_grounder.encode(DEMO_VIDEO).tokens, atol=1e-5
    )


def test_pushed_whole_in_odd_batches_or_singly(tiny_grounder: Grounder) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (61, 40, 56, 3), dtype=np.uint8)
    fps = Fraction(3)
    want = tiny_grounder.ground(tiny_grounder.encode_frames(frames, fps), QUERY)
    for cuts in ([], [1, 2, 5, 12, 40], list(range(1, 61))):
        stream = tiny_grounder.stream()
        for part in np.split(frames, cuts):
            stream.push_frames(part, fps)
        assert_same_answer(stream.ground(QUERY), want)


@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=50),
    fps=st.sampled_from([Fraction(1, 7), Fraction(1, 2), Fraction(24000, 1001), 5, 0.7]),
    ask=st.sets(st.integers(0, 49)),
)
@settings(max_examples=50)
def test_at_any_time_the_answer_is_that_of_the_frames_so_far(
    tmp_path: Path,
    tokenizer_file: Path,
    values: list[int],
    fps: Fraction | float,
    ask: set[int],
) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file, FakeEngine())
    frames = frames_with_red(values)
    stream = grounder.stream()
    for index in range(len(values)):
        stream.push_frames(frames[index : index + 1], fps)
        if index in ask or index == len(values) - 1:
            want: EncodedVideo = grounder.encode_frames(frames[: index + 1], fps)
            got = stream.encoded()
            np.testing.assert_array_equal(got.tokens, want.tokens)
            assert got.duration_s == pytest.approx(want.duration_s)


@pytest.mark.parametrize("sizes", [[1] * 40, [3, 1, 30, 6]])
def test_a_window_is_the_cut_of_the_last_seconds(tiny_grounder: Grounder, sizes: list[int]) -> None:
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (sum(sizes), 40, 56, 3), dtype=np.uint8)
    fps, seconds = Fraction(1), 12
    stream = tiny_grounder.stream(window_s=seconds)
    pushed = 0
    for size in sizes:
        stream.push_frames(frames[pushed : pushed + size], fps)
        pushed += size
        if pushed % 2:
            continue  # an odd second ends in the middle of a clip
        start = max(pushed - seconds, 0)
        cut = tiny_grounder.encode_frames(frames[start:pushed], fps)
        encoded = stream.encoded()
        np.testing.assert_allclose(encoded.tokens, cut.tokens, atol=1e-5)
        assert (encoded.start_s, encoded.duration_s) == (start, pushed - start)
        want, got = tiny_grounder.ground(cut, QUERY), stream.ground(QUERY)
        shift = np.array([start, start, 0])
        np.testing.assert_allclose(moments(got), moments(want) + shift, atol=1e-5)
        np.testing.assert_allclose(got.saliency, want.saliency, atol=1e-5)


def test_a_window_stays_bounded_whatever_stands_still(tmp_path: Path, tokenizer_file: Path) -> None:
    stream = fake_grounder(tmp_path, tokenizer_file).stream(window_s=20)
    for index, red in enumerate((10, 20, 30)):
        stream.push_frames(frames_with_red([red]), 1)
        # A camera that froze for an hour: one picture stands for 1800 clips.
        stream.push(frames_with_red([red + 1])[0], 3600.0 * (index + 1), duration_s=1.0)
        encoded = stream.encoded()
        assert encoded.num_clips == 10
        assert encoded.start_s + encoded.duration_s == stream.duration_s


def test_the_callers_buffer_may_be_filled_again(tmp_path: Path, tokenizer_file: Path) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file)
    stream = grounder.stream()
    buffer = np.zeros((10, 10, 3), np.uint8)
    for index in range(6):
        buffer[:] = index * 40
        stream.push(buffer, index * 2.0)
    tokens = stream.finish().tokens[:, 0, 0, 0]
    assert sorted(set(tokens.tolist())) == [0, 40, 80, 120, 160, 200]


def test_a_stream_that_starts_late_counts_from_its_first_frame(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file)
    frames = frames_with_red([10, 20, 30, 40])
    early, late = grounder.stream(), grounder.stream()
    for index, frame in enumerate(frames):
        early.push(frame, index * 2.0)
        late.push(frame, 1e6 + index * 2.0)
    np.testing.assert_array_equal(early.finish().tokens, late.finish().tokens)
    assert early.duration_s == late.duration_s == 8.0


@pytest.mark.parametrize("kind", [Fraction, float])
def test_every_time_is_kept_as_exactly_as_the_first(
    kind: Callable[[Fraction], Fraction | float], tmp_path: Path, tokenizer_file: Path
) -> None:
    """A clip is 2 s: 22 frames of 0.4 s are 4.4 clips, the first frame has whole seconds."""
    stream = fake_grounder(tmp_path, tokenizer_file).stream()
    stream.push(frames_with_red([10])[0], Fraction(0), duration_s=Fraction(1))
    for index, frame in enumerate(frames_with_red(list(range(11, 31)))):
        time_s = kind(1 + Fraction(2, 5) * index)
        stream.push(frame, time_s, duration_s=kind(Fraction(2, 5)))
    found = stream.finish()
    assert found.duration_s == 9
    # The last frame at or before 1, 3, 5 and 7 s, where a time in clips is rounded up, and then 9.
    assert found.tokens[:, 0, 0, 0].tolist() == [10, 15, 20, 25, 30]


def test_frames_of_another_rate_begin_where_the_last_one_ends(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file)
    stream = grounder.stream()
    stream.push_frames(frames_with_red([1, 2, 3]), Fraction(1, 2))
    stream.push_frames(frames_with_red([50] * 100), 25)
    found = stream.finish()
    assert (found.duration_s, found.tokens[:, 0, 0, 0].tolist()) == (10, [1, 2, 3, 50, 50])


@pytest.mark.parametrize("start_s", [100, 0.5, Fraction(1, 3)])
def test_frames_without_times_begin_at_the_start(
    start_s: Fraction | float, tmp_path: Path, tokenizer_file: Path
) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file)
    frames = frames_with_red(list(range(60)))
    late, early = grounder.stream(start_s=start_s), grounder.stream()
    for stream in (late, early):
        stream.push_frames(frames, 1)
    assert late.duration_s == 60
    np.testing.assert_array_equal(late.finish().tokens, early.finish().tokens)


def test_what_is_refused(tmp_path: Path, tokenizer_file: Path) -> None:
    stream = fake_grounder(tmp_path, tokenizer_file).stream()
    with pytest.raises(NoFramesError, match="no frame was pushed"):
        stream.ground("a dog")
    frame = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(QueryError, match="time_s"):
        stream.push(frame)
    stream.push(frame, 0.0)
    stream.finish()
    with pytest.raises(QueryError, match="finished"):
        stream.push(frame, 1.0)


def test_a_frame_of_unknown_length_is_a_clip(tmp_path: Path, tokenizer_file: Path) -> None:
    stream = fake_grounder(tmp_path, tokenizer_file).stream()
    stream.push(frames_with_red([10])[0], 5.0)
    assert stream.duration_s == 2
    encoded = stream.finish()
    encoded.save(tmp_path / "stream.r2rt")
    loaded = EncodedVideo.load(tmp_path / "stream.r2rt")
    assert (loaded.num_clips, loaded.duration_s) == (1, 2)
