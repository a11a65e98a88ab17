"""The library's corpus: resumed as it was, its truth where it says, distractors like the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.archive_cosine import best_spans
from benchmarks.archive_material import Corpus, Plan, describe, distractors, encode_corpus
from r2rt import EncodedVideo, Grounder
from tests.r2rt.conftest import DEMO_BUNDLE
from tests.training.world.toy_art import write_toy_sprites
from training.world.claims import claims_of
from training.world.sprites import Sprites

_HOURS = 0.08


@pytest.fixture(scope="module")
def sprites(tmp_path_factory: pytest.TempPathFactory) -> Sprites:
    return Sprites(write_toy_sprites(tmp_path_factory.mktemp("art") / "sprites.npz"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, sprites: Sprites) -> Corpus:
    found = Corpus(tmp_path_factory.mktemp("corpus"), Plan.of(_HOURS), sprites)
    grounder = Grounder.load(DEMO_BUNDLE, device="cpu")
    names = [name for name, _ in encode_corpus(grounder, found, sprites)]
    assert names == found.plan.names()
    return found


def test_an_interrupted_run_goes_on_with_the_same_videos(corpus: Corpus, sprites: Sprites) -> None:
    first, second = (corpus.path(name) for name in corpus.plan.names()[:2])
    kept, lost = first.read_bytes(), EncodedVideo.load(second)
    assert lost.compact is not None
    rows, embeddings = lost.compact.rows(), np.array(lost.embeddings)
    second.write_bytes(second.read_bytes()[:-100])
    list(encode_corpus(Grounder.load(DEMO_BUNDLE, device="cpu"), corpus, sprites))
    assert first.read_bytes() == kept
    again = EncodedVideo.load(second)
    assert again.compact is not None
    assert again.embeddings is not None
    np.testing.assert_array_equal(again.compact.rows(), rows)
    np.testing.assert_allclose(again.embeddings, embeddings, atol=1e-5)


def test_what_is_asked_about_is_shown_in_asked_videos_alone(
    corpus: Corpus, sprites: Sprites
) -> None:
    def shown(kind: str, number: int) -> set[str]:
        video = describe(f"{kind}-{number:05d}", sprites).video
        claims = claims_of(video.timed)
        return {x for claim in claims for x in (claim.concept, claim.other) if x is not None}

    for number in range(2):
        assert shown("asked", number)
        assert not shown("asked", number) & shown("other", number)
    for query in corpus.queries(20):
        own = {tuple(span) for span in query.spans_s[query.source]}
        asked = corpus.asked[query.source].queries
        assert own == {span for x in asked if x.text == query.text for span in x.spans_s}


def test_distractors_have_the_distribution_of_the_others(corpus: Corpus) -> None:
    names = [name for name in corpus.plan.names() if name.startswith("other")]
    rows = np.concatenate([np.array(EncodedVideo.load(corpus.path(x)).embeddings) for x in names])
    videos = list(distractors(corpus, 3.0))
    assert sum(video.duration_s for video in videos) == pytest.approx(3 * 3600, rel=0.06)
    made = np.concatenate([np.array(video.embeddings) for video in videos])
    spread = rows.std(axis=0)
    assert (np.abs(made.mean(axis=0) - rows.mean(axis=0)) < 0.3 * spread + 1e-3).all()
    assert np.median(made.std(axis=0) / spread) == pytest.approx(1, abs=0.15)
    assert len({video.source for video in videos}) == len(videos)
    again = next(distractors(corpus, 3.0))
    np.testing.assert_array_equal(again.embeddings, videos[0].embeddings)


@pytest.mark.slow
def test_the_benchmark_reports_searches_and_baselines(corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("lance", reason="pylance is not installed")
    from benchmarks.archive import main

    art = tmp_path / "art"
    art.mkdir()
    write_toy_sprites(art / "sprites.npz")
    arguments = ["--bundle", str(DEMO_BUNDLE), "--art", str(art), "--corpus", str(corpus.folder)]
    arguments += ["--library", str(tmp_path / "library"), "--hours", str(_HOURS), "--grow", "0.5"]
    arguments += ["--queries", "3", "--quick", "--out", str(tmp_path), "--no-plot"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    record = json.loads((tmp_path / "archive.quick.json").read_text())
    rows = {(row["group"], row["name"]): row["values"] for row in record["rows"]}
    small, large = (rows["search", f"{hours:g} h, 20 windows"] for hours in (_HOURS, 0.5))
    assert large["tokens MB"] > small["tokens MB"]
    assert small["resident memory MB"] > 0
    exhaustive = rows[f"windows grounded, {_HOURS:g} h", "every window"]
    # The corpus has fewer than 100 windows.
    assert exhaustive["R@10"] == rows[f"windows grounded, {_HOURS:g} h", "100 windows"]["R@10"]
    ranked = [values for values in rows.values() if "R@1" in values]
    assert len(ranked) == 2 * 3 + 2 + 3
    for values in ranked:
        assert 0 <= values["R@1"] <= values["R@5"] <= values["R@10"] <= 100


@pytest.mark.slow
def test_a_folder_of_short_videos_is_brought_up_to_date(tmp_path: Path) -> None:
    pytest.importorskip("lance", reason="pylance is not installed")
    from benchmarks.archive_folder import main

    write_toy_sprites(tmp_path / "sprites.npz")
    arguments = ["--bundle", str(DEMO_BUNDLE), "--art", str(tmp_path), "--videos", "20"]
    arguments += ["--folder", str(tmp_path / "folder"), "--out", str(tmp_path), "--no-plot"]
    arguments += ["--quick"]
    assert CliRunner().invoke(main, arguments, catch_exceptions=False).exit_code == 0
    record = json.loads((tmp_path / "archive_folder.quick.json").read_text())
    rows = {row["name"]: row["values"] for row in record["rows"]}
    counts = {
        name: (values["ready"], values["missing"], values["tokens rows"])
        for name, values in rows.items()
        if "ready" in values
    }
    assert counts == {
        "index all": (20, 0, 20),
        # The changed one has new rows beside its old ones, which `compact` removes.
        "one changed, one moved, one deleted": (19, 1, 21),
        "nothing changed": (19, 1, 21),
        "compact": (19, 0, 19),
    }


def test_cosine_alone_ranks_peaks_and_chunks() -> None:
    rows = np.zeros((40, 2), np.float32)
    rows[:, 1] = 1
    rows[10:14] = (1, 0.1)
    other = np.tile(np.array([[0.3, 1]], np.float32), (20, 1))
    query = np.array([[1, 0]], np.float32)
    videos = [("a", other), ("b", rows)]
    (frames,) = best_spans(videos, query, unit="frames", row_s=2.0, top=5)
    assert frames == [("b", 20.0, 28.0), ("a", 0.0, 40.0)]
    (chunks,) = best_spans(videos, query, unit="chunks", row_s=2.0, top=2)
    # Ten of fifteen rows are others: the mean of a chunk is lower than its peak.
    assert [name for name, *_ in chunks] == ["a", "a"]
    assert {chunk[1:] for chunk in chunks} == {(0.0, 30.0), (30.0, 40.0)}
