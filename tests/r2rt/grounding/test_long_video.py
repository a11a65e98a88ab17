"""Videos longer than a window: the merged answers of its parts, in bounded memory."""

from __future__ import annotations

import dataclasses
import gc
import tracemalloc
import weakref
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from r2rt import EncodedVideo, Grounder, Prediction
from r2rt.errors import QueryError
from r2rt.model.contract import GROUNDER, VIDEO_ENCODER, VIDEO_FINALIZER
from r2rt.video import Departures
from tests.r2rt.conftest import DEMO_VIDEO
from tests.r2rt.fakes import FakeEngine, fake_grounder, frames_with_red

QUERIES = ["a red ball rolls to the right", "a ring", "nothing of the kind at all"]
FPS = Fraction(1, 2)


@pytest.fixture(scope="module")
def noise() -> NDArray[np.uint8]:
    """40 clips, no two alike."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


@pytest.fixture(scope="module")
def video(tiny_grounder: Grounder, noise: NDArray[np.uint8]) -> EncodedVideo:
    return tiny_grounder.encode_frames(noise, FPS)


def triples(prediction: Prediction) -> NDArray[np.float64]:
    return np.array([(m.start_s, m.end_s, m.score) for m in prediction.moments])


@pytest.mark.parametrize(("window", "overlap"), [(24, None), (24, 16), (30, 0), (78, 2)])
def test_a_windows_answer_is_that_of_the_cut_alone(
    tiny_grounder: Grounder,
    noise: NDArray[np.uint8],
    video: EncodedVideo,
    window: float,
    overlap: float | None,
) -> None:
    got = tiny_grounder.ground(video, QUERIES, window=window, overlap=overlap)
    cuts = [
        tiny_grounder.ground(
            noise, QUERIES, window=None, source_fps=FPS, start_s=start_s, end_s=end_s
        )
        for start_s, end_s in got[0].windows_s.tolist()
    ]
    assert len(cuts) > 1
    for index, prediction in enumerate(got):
        own = [cut[index] for cut in cuts]
        raw = np.concatenate([cut.boundaries for cut in own])
        raw = raw[np.argsort(-raw[:, 2], kind="stable")]
        # Scores that are nearly equal may change places.
        np.testing.assert_allclose(prediction.boundaries[:, 2], raw[:, 2], atol=1e-5)
        for column in (0, 1):
            np.testing.assert_allclose(
                np.sort(prediction.boundaries[:, column]), np.sort(raw[:, column]), atol=1e-4
            )
        total, count = np.zeros(40), np.zeros(40)
        for cut in own:
            clips = np.round(cut.clip_starts_s / 2).astype(int)
            total[clips] += cut.saliency
            count[clips] += 1
        np.testing.assert_allclose(prediction.saliency, total / count, atol=1e-5)


def test_every_part_of_a_file_is_grounded_as_that_part_is(tiny_grounder: Grounder) -> None:
    video = tiny_grounder.encode(DEMO_VIDEO)
    for start_clip, end_clip in ((0, 6), (3, 9), (6, 12)):
        got = tiny_grounder.ground(video.part(start_clip, end_clip), QUERIES[0])
        want = tiny_grounder.ground(
            DEMO_VIDEO, QUERIES[0], start_s=2 * start_clip, end_s=2 * end_clip
        )
        assert got.duration_s == pytest.approx(want.duration_s)
        np.testing.assert_allclose(triples(got), triples(want), atol=1e-5)
        np.testing.assert_allclose(got.saliency, want.saliency, atol=1e-5)
        np.testing.assert_allclose(got.clip_starts_s, want.clip_starts_s, atol=1e-9)


def test_windows_are_used_where_the_video_is_longer_than_the_model_knows(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file)
    grounder.bundle.manifest = msgspec.structs.replace(grounder.bundle.manifest, window_s=40.0)
    short, long = (
        grounder.encode_frames(frames_with_red(list(range(clips))), FPS) for clips in (20, 45)
    )
    whole = grounder.ground(short, "a dog")
    np.testing.assert_array_equal(whole.windows_s, [[0, 40]])
    split = grounder.ground(long, "a dog")
    np.testing.assert_array_equal(split.windows_s, [[0, 40], [20, 60], [40, 80], [50, 90]])
    np.testing.assert_array_equal(
        grounder.ground(long, "a dog", window="auto", overlap=4).windows_s,
        [[0, 40], [36, 76], [50, 90]],
    )
    np.testing.assert_array_equal(grounder.ground(long, "a dog", window=None).windows_s, [[0, 90]])
    np.testing.assert_array_equal(grounder.ground(long, "a dog", window=90).windows_s, [[0, 90]])
    # Of a part, on the source's clock.
    part = grounder.ground(long.part(15, 40), "a dog")
    np.testing.assert_array_equal(part.windows_s, [[30, 70], [40, 80]])
    assert len(split.saliency) == len(split.clip_starts_s) == 45
    assert all(0 <= m.start_s < m.end_s <= 90 for m in split.moments)
    assert len(split.boundaries) == 4 * len(whole.boundaries)


def test_many_queries_over_many_windows_answer_as_they_do_alone(
    tiny_grounder: Grounder, video: EncodedVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [tiny_grounder.ground(video, query, window=24) for query in QUERIES]
    for scratch in (1, 256 << 20):  # one query a batch, or all of them
        monkeypatch.setattr("r2rt.grounding.ask._SCRATCH_BYTES", scratch)
        for got, want in zip(tiny_grounder.ground(video, QUERIES, window=24), alone, strict=True):
            assert got.query == want.query
            np.testing.assert_allclose(triples(got), triples(want), atol=1e-5)
            np.testing.assert_allclose(got.saliency, want.saliency, atol=1e-5)


def test_the_answer_is_the_same_again_whatever_was_kept_or_asked_between(
    tiny_grounder: Grounder, video: EncodedVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = tiny_grounder.ground(video, QUERIES[0], window=24)
    other = dataclasses.replace(video, tokens=video.tokens[::-1].copy())
    window_bytes = 4 * 12 * 4 * 17 * 64
    for kept in (0, 2 * window_bytes, 64 << 20):
        monkeypatch.setattr(type(tiny_grounder.engine), "kept_bytes", kept)
        tiny_grounder.ground(other, QUERIES[1], window=24)
        for _ in range(2):
            tiny_grounder.ground(video, QUERIES[1], window=30)
            got = tiny_grounder.ground(video, QUERIES[0], window=24)
            assert got.moments == want.moments
            np.testing.assert_array_equal(got.saliency, want.saliency)
            np.testing.assert_array_equal(got.boundaries, want.boundaries)


def test_windows_that_were_finalised_are_kept_while_there_is_room(
    tmp_path: Path, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    grounder = fake_grounder(tmp_path, tokenizer_file, engine)
    video = grounder.encode_frames(frames_with_red(list(range(40))), FPS)
    window_bytes = 4 * 10 * 3 * 2 * 4
    monkeypatch.setattr(FakeEngine, "kept_bytes", 3 * window_bytes)
    first = grounder.ground(video, "a dog", window=20)
    assert len(first.windows_s) == 7
    assert engine.runs[VIDEO_FINALIZER] == 7
    grounder.ground(video, "a cat", window=20)
    assert engine.runs[VIDEO_FINALIZER] == 7 + 4
    assert engine.runs[GROUNDER] == 14
    assert engine.runs[VIDEO_ENCODER] == 10


def test_what_is_not_kept_is_freed_with_the_answer(
    tmp_path: Path, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[object]] = []

    def empty(_: FakeEngine, shape: Sequence[int]) -> NDArray[np.float32]:
        array = np.empty(shape, np.float32)
        made.append(weakref.ref(array))
        return array

    monkeypatch.setattr(FakeEngine, "empty", empty)
    monkeypatch.setattr(FakeEngine, "kept_bytes", 0)
    grounder = fake_grounder(tmp_path, tokenizer_file)
    video = grounder.encode_frames(frames_with_red(list(range(40))), FPS)
    made.clear()
    grounder.ground(video, QUERIES, window=None)
    gc.collect()
    assert [array() for array in made] == [None]


def test_bad_windows_are_reported_before_the_video_is_read(tiny_grounder: Grounder) -> None:
    for options in ({"window": 0}, {"window": 10, "overlap": 10}, {"window": "long"}):
        with pytest.raises(QueryError):
            tiny_grounder.ground("/nowhere.mp4", "a dog", **options)


@pytest.mark.slow
def test_three_hours_take_the_work_of_nine_times_twenty_minutes_and_no_more_memory(
    tiny_grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tiny_grounder.engine), "kept_bytes", 4 << 20)
    dims = tiny_grounder.bundle.dims
    rng = np.random.default_rng(0)
    tokens = rng.random((5400, dims.layers, dims.patches, dims.token_width), np.float32)
    runs = 0
    run = tiny_grounder.engine.run

    def counted(graph: str, *arguments: object) -> object:
        nonlocal runs
        runs += graph == GROUNDER
        return run(graph, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tiny_grounder.engine, "run", counted)
    whole = EncodedVideo(
        tokens=tokens,
        model="tiny",
        model_fingerprint=tiny_grounder.bundle.fingerprint,
        source="long",
        duration_s=10800.0,
        start_s=0.0,
        fps=FPS,
        sampling="exact",
        departures=Departures(),
        encode_s=0.0,
    )
    tiny_grounder.encode_queries(QUERIES[:1])
    peaks, counts = [], []
    for clips in (600, 5400):
        gc.collect()
        tracemalloc.start()
        runs = 0
        predictions = tiny_grounder.ground(whole.part(0, clips), QUERIES[:1])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        counts.append(runs)
        assert all(len(item.saliency) == clips for item in predictions)
    assert counts == [15, 142]  # 75 clips, of which 38 are new each time
    # What grows is the answer: 50 boundaries a window, and a moment of each that survives.
    answers = (142 - 15) * 50 * 400
    assert peaks[1] - peaks[0] < answers
    assert answers < tokens.nbytes / 10
