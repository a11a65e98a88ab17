"""Highlights: peaks and how far they grow, spans of a length, and what stands in for a query."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from r2rt import Grounder
from r2rt.errors import QueryError
from r2rt.selection.highlights import choose_highlights, find_highlights, grown, of_length
from r2rt.selection.saliency import (
    TYPICAL,
    centrality,
    clips_as_moment,
    fallback_query,
    saliency_of,
)
from tests.r2rt.answers import prediction
from tests.r2rt.fakes import fake_bundle, fake_grounder, frames_with_red

_SALIENCY = st.lists(st.integers(-3, 9).map(lambda x: x / 8), min_size=1, max_size=30)


def saliency(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_a_peak_grows_halfway_down_to_the_median() -> None:
    values = saliency(0, 0, 0.4, 0.6, 1, 0.5, 0.4, 0, 0, 0, 0)
    assert grown(values, [0, 11], top=1) == [(3, 6)]
    assert grown(values + 7, [0, 11], top=1) == [(3, 6)]


def test_a_highlight_stays_in_its_shot() -> None:
    values = saliency(0, 0, 0.9, 0.9, 1, 0.9, 0.9, 0, 0, 0, 0)
    assert grown(values, [0, 4, 11], top=1) == [(4, 7)]
    assert grown(values, [0, 11], top=1) == [(2, 7)]


def test_the_slope_of_a_highlight_is_not_the_next_one() -> None:
    values = saliency(0, 0.2, 1, 0.4, 0.3, 0, 0, 0, 0, 0.1, 0)
    assert grown(values, [0, 11], top=5) == [(2, 3), (9, 10)]


def test_what_does_not_stand_out_is_no_highlight() -> None:
    assert grown(saliency(1, 1, 1, 1), [0, 4], top=3) == [(0, 4)]
    assert grown(saliency(0.5), [0, 1], top=3) == [(0, 1)]


def test_spans_of_a_length_are_the_best_left() -> None:
    values = saliency(0, 1, 1, 0, 0.5, 0.9, 0.2, 0)
    assert of_length(values, 2, top=9) == [(1, 3), (4, 6), (6, 8)]
    assert of_length(values, 20, top=9) == [(0, 8)]


@given(_SALIENCY, st.integers(1, 6), st.integers(1, 8), st.data())
def test_spans_never_overlap_and_best_come_first(
    values: list[float], top: int, clips: int, data: st.DataObject
) -> None:
    row = np.array(values, np.float32)
    inner = data.draw(st.sets(st.integers(1, len(values))))
    borders = sorted({0, len(values), *inner})
    for spans in (grown(row, borders, top), of_length(row, clips, top)):
        assert 1 <= len(spans) <= top
        assert all(0 <= start < end <= len(row) for start, end in spans)
        for (a, b), (c, d) in itertools.pairwise(sorted(spans)):
            assert b <= c < d
            assert a < b
    for start, end in grown(row, borders, top):
        assert not any(start < border < end for border in borders)
    means = [row[start:end].mean() for start, end in of_length(row, clips, top)]
    assert means == pytest.approx(sorted(means, reverse=True))
    best = max(row[i : i + clips].sum() for i in range(max(1, len(row) - clips + 1)))
    assert row[slice(*of_length(row, clips, 1)[0])].sum() == pytest.approx(best)


def test_a_span_ends_with_the_video_and_keeps_its_clock() -> None:
    answer = prediction([-1, 0.5, 2.0], duration_s=5.5, clip_starts_s=np.array([10.0, 12, 14]))
    last = clips_as_moment(answer, 1, 3)
    assert (last.start_s, last.end_s, last.score) == (12.0, 15.5, 1.0)
    assert clips_as_moment(answer, 0, 1).score == 0.0


def test_highlights_are_moments_best_first(tmp_path: Path, tokenizer_file: Path) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file)
    video = grounder.encode_frames(frames_with_red([0, 0, 90, 0, 0, 200, 0, 0]), 0.5)
    answer = grounder.ground(video, "a dog")
    answer = prediction([0, 0, 0.5, 0, 0, 1, 0, 0])
    found = choose_highlights(grounder, video, answer, top=2)
    assert [(m.start_s, m.end_s, m.score) for m in found.moments] == [(10, 12, 1.0), (4, 6, 0.5)]
    found = choose_highlights(grounder, video, answer, top=2, length_s=4.0)
    assert [(m.start_s, m.end_s) for m in found.moments] == [(8, 12), (2, 6)]
    assert find_highlights(grounder, video, "a dog", top=1).query == "a dog"


@pytest.mark.parametrize("options", [{"top": 0}, {"length_s": 0.0}, {"length_s": float("inf")}])
def test_highlights_that_make_no_sense(
    options: dict[str, float], tmp_path: Path, tokenizer_file: Path
) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file)
    video = grounder.encode_frames(frames_with_red([0, 1]), 0.5)
    with pytest.raises(QueryError):
        find_highlights(grounder, video, "a", **options)  # type: ignore[arg-type]


@given(st.integers(2, 12), st.integers(0, 99))
def test_centrality_is_the_mean_cosine_stretched(count: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(count, 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = rows @ rows.T
    mean = np.array([np.delete(cosine[i], i).mean() for i in range(count)])
    found = centrality(rows)
    assert ((found >= 0) & (found <= 1)).all()
    if count > 2:  # two have one cosine between them
        low, high = np.quantile(mean, (0.05, 0.95))
        if high - low < 1e-6:
            return
        np.testing.assert_allclose(found, ((mean - low) / (high - low)).clip(0, 1), atol=1e-6)


def test_clips_that_are_all_alike_are_equally_typical() -> None:
    assert centrality(np.ones((5, 1))).tolist() == [0.5] * 5
    assert centrality(np.ones((1, 1))).tolist() == [0.5]


def with_recipe(grounder: Grounder, folder: Path, recipe: str | None) -> None:
    manifest = fake_bundle(folder).manifest
    provenance = msgspec.structs.replace(manifest.provenance, recipe=recipe)
    grounder.bundle.manifest = msgspec.structs.replace(manifest, provenance=provenance)


def titled(path: Path, title: str) -> Path:
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        stream = container.add_stream("mpeg4", rate=Fraction(2))
        stream.width, stream.height = 32, 32
        for _ in range(8):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_models_of_a_domain_are_asked_what_they_were_trained_with(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file)
    video = grounder.encode(titled(tmp_path / "a.mp4", "How to bake  bread"))
    for recipe, query in (
        ("youtube_gym", "gymnastics"),
        ("youtube_dog", "dog"),
        ("tvsum_bk", "How to bake bread"),
        ("qvhighlights", None),
        ("youtube_new", None),
        (None, None),
    ):
        with_recipe(grounder, tmp_path, recipe)
        assert fallback_query(grounder, video).query == query
        answer, instead = saliency_of(grounder, video)
        assert instead is not None
        assert answer.query == (query or TYPICAL)
        assert saliency_of(grounder, video, "a dog")[1] is None


def test_without_a_title_clips_are_scored_by_how_typical_they_are(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file)
    with_recipe(grounder, tmp_path, "tvsum_bk")
    for source in (titled(tmp_path / "a.mp4", " "), frames_with_red([0, 1])):
        video = grounder.encode(source, source_fps=None if isinstance(source, Path) else 0.5)
        assert fallback_query(grounder, video).query is None


def test_the_odd_clip_is_the_least_typical(tiny_grounder: Grounder) -> None:
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 255, (1, 40, 40, 3), np.uint8), 30, axis=0)
    frames[7] = 0
    video = tiny_grounder.encode_frames(frames, tiny_grounder.bundle.fps)
    answer, _ = saliency_of(tiny_grounder, video)
    assert answer.saliency.argmin() == 7
    assert answer.saliency.shape == (30,)
    assert answer.model == tiny_grounder.bundle.manifest.name


def test_without_a_query_too_the_answer_says_how_the_video_was_read(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file)
    video = grounder.encode(frames_with_red([9, 10, 90]), source_fps=0.5, skip_similar=2)
    assert video.departures.clips_similar == 1
    for query in (None, "a dog"):
        assert find_highlights(grounder, video, query).departures == video.departures
