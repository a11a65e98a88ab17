"""The session over a fake engine: what is encoded, how often, and what is refused."""

from __future__ import annotations

import dataclasses
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2rt import EncodedVideo
from r2rt.errors import ModelMismatchError, QueryError, SourceNotFoundError
from r2rt.grounding.grounder import Grounder
from tests.r2rt.fakes import FakeEngine, fake_grounder, frames_with_red

CLIP_FPS = Fraction(1, 2)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def grounder(tmp_path: Path, tokenizer_file: Path, engine: FakeEngine) -> Grounder:
    return fake_grounder(tmp_path, tokenizer_file, engine)


def reds(video: EncodedVideo) -> list[int]:
    return [round(float(value)) for value in video.tokens[:, 0, 0, 0]]


@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=40),
    frame_batch=st.sampled_from([1, 3, 4, 64]),
)
@settings(max_examples=30)
def test_each_clip_is_its_own_frame_whatever_the_batches(
    tmp_path: Path, tokenizer_file: Path, values: list[int], frame_batch: int
) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file, FakeEngine(frame_batch))
    assert reds(grounder.encode_frames(frames_with_red(values), CLIP_FPS)) == values


def test_a_frame_that_stands_for_many_clips_is_encoded_once(
    grounder: Grounder, engine: FakeEngine
) -> None:
    video = grounder.encode_frames(frames_with_red([10, 20, 30]), Fraction(1, 8))
    assert video.num_clips == 12
    assert engine.frames_encoded == 3
    assert reds(video) == sorted(reds(video))
    assert set(reds(video)) == {10, 20, 30}


def test_asking_again_encodes_nothing_again(grounder: Grounder, engine: FakeEngine) -> None:
    video = grounder.encode_frames(frames_with_red(list(range(20))), CLIP_FPS)
    encoded = engine.runs["video_encoder"]
    grounder.ground(video, "a dog")
    grounder.ground(video, ["a dog", "a cat", "a bird"])
    grounder.ground(video, ["a cat", "a dog"])
    assert engine.runs["video_encoder"] == encoded
    assert engine.runs["video_finalizer"] == 1
    assert engine.runs["text_encoder"] == 2  # "a dog"; then "a cat" and "a bird" together
    assert engine.runs["grounder"] == 3  # one batch a call


def test_a_batch_of_queries_answers_as_they_do_alone(grounder: Grounder) -> None:
    video = grounder.encode_frames(frames_with_red(list(range(0, 200, 10))), CLIP_FPS)
    queries = ["a dog", "a much longer sentence about a cat on a mat", "birds", "a dog"]
    together = grounder.ground(video, queries)
    assert [item.query for item in together] == queries
    for item, query in zip(together, queries, strict=True):
        alone = grounder.ground(video, query)
        assert alone.moments == item.moments
        np.testing.assert_array_equal(alone.saliency, item.saliency)


def test_moments_lie_inside_the_part_that_was_read_on_the_sources_clock(
    grounder: Grounder,
) -> None:
    frames = frames_with_red(list(range(30)))
    prediction = grounder.ground(frames, "a dog", source_fps=CLIP_FPS, start_s=20, end_s=40)
    assert prediction.duration_s == 20
    assert prediction.clip_starts_s[0] == 20
    assert len(prediction.saliency) == 10
    assert prediction.moments
    for moment in prediction.moments:
        assert 20 <= moment.start_s < moment.end_s <= 40
    # Raw boundaries are neither clamped nor rounded, and on the same clock.
    assert prediction.boundaries[:, 0].min() < 20


def test_top_k_min_score_and_suppression(grounder: Grounder) -> None:
    video = grounder.encode_frames(frames_with_red(list(range(0, 250, 10))), CLIP_FPS)
    everything = grounder.ground(video, "a dog", nms="none")
    suppressed = grounder.ground(video, "a dog")
    assert len(everything.moments) > len(suppressed.moments) > 3
    assert grounder.ground(video, "a dog", top_k=3).moments == suppressed.moments[:3]
    middle = suppressed.moments[2].score
    kept = grounder.ground(video, "a dog", min_score=middle).moments
    assert kept == tuple(m for m in suppressed.moments if m.score >= middle)


def test_progress_counts_every_clip(grounder: Grounder) -> None:
    seen: list[tuple[int, int]] = []
    frames = frames_with_red(list(range(11)))
    grounder.encode_frames(frames, CLIP_FPS, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (11, 11)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("query", ["", "   ", "\n\t"])
def test_an_empty_query_is_refused(grounder: Grounder, query: str) -> None:
    video = grounder.encode_frames(frames_with_red([1, 2]), CLIP_FPS)
    with pytest.raises(QueryError, match="has no words"):
        grounder.ground(video, ["a dog", query])


def test_no_query_and_no_top_k_are_refused(grounder: Grounder) -> None:
    video = grounder.encode_frames(frames_with_red([1, 2]), CLIP_FPS)
    with pytest.raises(QueryError, match="no query"):
        grounder.ground(video, [])
    with pytest.raises(QueryError, match="top_k"):
        grounder.ground(video, "a dog", top_k=0)
    with pytest.raises(QueryError, match="start_s"):
        grounder.ground(video, "a dog", start_s=1)


def test_an_over_long_query_is_cut_and_says_so(grounder: Grounder) -> None:
    video = grounder.encode_frames(frames_with_red([1, 2]), CLIP_FPS)
    assert grounder.ground(video, "dog " * 100).query_truncated
    assert not grounder.ground(video, "a dog").query_truncated


def test_a_bad_query_is_reported_before_the_video_is_decoded(
    grounder: Grounder, engine: FakeEngine
) -> None:
    with pytest.raises(QueryError):
        grounder.ground(frames_with_red([1, 2]), "", source_fps=CLIP_FPS)
    assert engine.frames_encoded == 0


def test_another_models_encoding_is_refused(grounder: Grounder) -> None:
    video = grounder.encode_frames(frames_with_red([1, 2]), CLIP_FPS)
    other = dataclasses.replace(video, model="other", model_fingerprint="0" * 32)
    with pytest.raises(ModelMismatchError, match="was encoded by other"):
        grounder.ground(other, "a dog")


def test_an_error_of_the_source_leaves_no_thread_behind(grounder: Grounder) -> None:
    before = threading.active_count()
    with pytest.raises(SourceNotFoundError):
        grounder.encode("/nowhere/video.mp4")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grounder.encode_frames(frames_with_red([0] * 100), CLIP_FPS, stop)
    assert threading.active_count() == before


def test_many_queries_are_split_so_that_memory_stays_bounded(
    grounder: Grounder, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r2rt.grounding.ask._SCRATCH_BYTES", 40_000)
    video = grounder.encode_frames(frames_with_red(list(range(40))), CLIP_FPS)
    predictions = grounder.ground(video, [f"thing {index}" for index in range(9)])
    assert len(predictions) == 9
    assert 1 < engine.runs["grounder"] <= 9
