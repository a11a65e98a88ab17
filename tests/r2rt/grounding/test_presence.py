"""Whether a query is in the video: the statistics, the threshold, the calibration."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from r2rt import Grounder
from r2rt.errors import BundleDamagedError, QueryError, SourceNotFoundError
from r2rt.grounding.prediction import Prediction
from r2rt.grounding.presence import LEVELS, STATISTICS, confidence, presence_statistics, threshold
from r2rt.model.bundle import Bundle
from r2rt.model.contract import ModelDims
from r2rt.model.manifest import Presence, manifest_bytes, parse_manifest, read_manifest
from r2rt.quality.calibration import calibrate, read_pairs, roc_area, store_presence
from tests.r2rt.answers import prediction
from tests.r2rt.bundles import write_bundle
from tests.r2rt.fakes import fake_bundle, fake_grounder, frames_with_red
from tests.stretching import highest, split_levels

SCORE = STATISTICS.index("score")


def answers(values: NDArray[np.float64], column: str = "score") -> list[Prediction]:
    """Answers whose windows (N, W) differ in one statistic alone."""
    statistics = np.zeros((*values.reshape(len(values), -1).shape, len(STATISTICS)))
    statistics[..., STATISTICS.index(column)] = values.reshape(len(values), -1)
    return [prediction(presence_statistics=rows) for rows in statistics]


def normal(seed: int, count: int, mean: float = 0.0, windows: int = 1) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(mean, 1, (count, windows))


def calibrated(count: int = 1000, **options: float) -> Presence:
    return calibrate(answers(normal(1, count, 3)), answers(normal(2, count)), **options)  # type: ignore[arg-type]


def test_the_statistics_are_what_their_names_say() -> None:
    dims = ModelDims(
        image_size=8,
        patches=2,
        layers=1,
        width=4,
        context_length=77,
        strides=(1, 2, 4),
        use_tef=True,
        has_offsets=True,
    )
    logits = np.array([-1.0, -2, -3, 0.5, -5, 1.5, -1, 2.0])  # 5 clips: 5, 2 and 1 points
    # Clip 4 lies past what the levels of stride 2 and 4 cover: their last point stands for it.
    saliency = np.array([0.1, 0.2, 0.0, 0.3, 0.4])
    score, peak, contrast, similarity = presence_statistics(logits, saliency, dims, merged=True)
    assert (score, peak) == (2.0, 0.4)
    assert contrast == pytest.approx(0.4 - 0.2)
    assert similarity == pytest.approx(0.4 / (1 / (1 + np.exp(-2.0))))
    assert presence_statistics(logits, saliency, dims, merged=False)[3] == 0.4


def test_the_similarity_is_of_the_score_that_reaches_the_clip() -> None:
    """Every number of clips: the level that the saliency came from is found again."""
    random = np.random.default_rng(0)
    strides = (1, 2, 4, 8)
    dims = ModelDims(
        image_size=8,
        patches=2,
        layers=1,
        width=4,
        context_length=77,
        strides=strides,
        use_tef=True,
        has_offsets=True,
    )
    for clips in range(1, 161):
        scores = random.random(sum(clips // s for s in strides)).astype(np.float32)
        best = highest(list(split_levels(scores, clips, strides)), clips)
        cosine = random.random(clips)
        logits = np.log(scores / (1 - scores))
        found = presence_statistics(logits, best * cosine, dims, merged=True)
        assert found[3] == pytest.approx(cosine[np.argmax(best * cosine)], rel=1e-5), clips


def test_the_similarity_undoes_what_the_model_multiplied(tiny_grounder: Grounder) -> None:
    """σ(class) · cos over σ(class) is a cosine: in -1..1, and near 1 for no random model."""
    frames = np.random.default_rng(0).integers(0, 255, (7, 40, 40, 3), np.uint8)
    for found in tiny_grounder.ground(tiny_grounder.encode_frames(frames, 0.5), ["a", "b c"]):
        (row,) = found.presence_statistics
        assert row[SCORE] == pytest.approx(
            np.log(found.boundaries[0, 2] / (1 - found.boundaries[0, 2])), abs=1e-5
        )
        assert row[1] == found.saliency.max()
        assert abs(row[1]) <= abs(row[3]) <= 1


def test_at_most_the_promised_share_is_let_through() -> None:
    negatives = normal(2, 1000)
    for share in (0.05, 0.2, 0.5):
        presence = calibrate(answers(normal(1, 50, 3)), answers(negatives), share)
        above = (negatives > threshold(presence)).mean()
        assert share - 0.003 <= above <= share
        fresh = normal(3, 20000) > threshold(presence)
        assert fresh.mean() == pytest.approx(share, abs=0.025)


def test_the_share_kept_and_its_interval_are_those_of_the_positives() -> None:
    presence = calibrated()
    # Normal, 3 deviations apart: P(x > 1.645 - 3) = 0.912.
    low, high = presence.kept_interval
    assert low < presence.kept < high
    assert presence.kept == pytest.approx(0.912, abs=0.03)
    assert 0.02 < high - low < 0.08
    assert calibrated() == presence


@pytest.mark.parametrize("windows", [1, 2, 5, 20, 72])
def test_many_windows_let_no_more_through(windows: int) -> None:
    presence = calibrated(count=2000)
    statistics = np.zeros((4000, windows, len(STATISTICS)))
    statistics[..., SCORE] = normal(4, 4000, windows=windows)
    passed = np.mean([confidence(presence, rows)[0] for rows in statistics])
    # A normal's tail falls faster than an exponential one: fewer pass, not more.
    assert 0.003 < passed < 0.065
    naive = (statistics[..., SCORE].max(axis=1) > threshold(presence)).mean()
    assert windows == 1 or naive > 1.7 * passed


def test_the_statistic_that_separates_best_is_taken() -> None:
    positives, negatives = answers(normal(1, 100, 1)), answers(normal(2, 100))
    better = [
        prediction(presence_statistics=x.presence_statistics + y.presence_statistics)
        for x, y in zip(positives, answers(normal(3, 100, 4), "contrast"), strict=True)
    ]
    worse = [
        prediction(presence_statistics=x.presence_statistics + y.presence_statistics)
        for x, y in zip(negatives, answers(normal(5, 100), "contrast"), strict=True)
    ]
    presence = calibrate(better, worse)
    assert presence.statistic == "contrast"
    assert presence.areas["contrast"] > 0.98 > presence.areas["score"] > 0.6
    assert presence.areas["saliency"] == 0.5


@given(st.lists(st.integers(0, 5), min_size=1), st.lists(st.integers(0, 5), min_size=1))
def test_the_area_counts_pairs(positives: list[int], negatives: list[int]) -> None:
    won = sum((a > b) + (a == b) / 2 for a in positives for b in negatives)
    area = roc_area(np.array(positives, float), np.array(negatives, float))
    assert area == pytest.approx(won / len(positives) / len(negatives))


@settings(max_examples=50)
@given(
    st.floats(-4, 8),
    st.floats(0, 3),
    st.integers(1, 100),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_being_sure_and_the_threshold_agree(
    value: float, more: float, windows: int, share: float
) -> None:
    presence = msgspec.structs.replace(_CALIBRATED, false_alarm=share)
    rows = np.full((windows, len(STATISTICS)), -9.0)
    rows[-1, SCORE] = value
    present, sure = confidence(presence, rows)
    assert 0 <= sure <= 1
    if abs(sure - (1 - share)) > 1e-9:
        assert present == (sure > 1 - share)
    rows[-1, SCORE] = value + more
    assert confidence(presence, rows)[1] >= sure
    assert threshold(presence, windows + 1) >= threshold(presence, windows)


_CALIBRATED = calibrated(count=200)


def test_a_constant_statistic_lets_nothing_through() -> None:
    presence = calibrate(answers(np.ones(30)), answers(np.ones(30)))
    assert presence.kept == 0.0
    assert presence.tail == 0.0
    assert confidence(presence, answers(np.ones(1))[0].presence_statistics)[0] is False
    assert confidence(presence, answers(np.full(1, 1.01))[0].presence_statistics) == (True, 1.0)


@pytest.mark.parametrize(
    ("count", "share", "message"),
    [(19, 0.05, "at least 20 of each"), (20, 0.0, "above 0"), (20, 0.6, "up to 0.5")],
)
def test_what_cannot_be_calibrated(count: int, share: float, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        calibrate(answers(normal(1, count)), answers(normal(2, count)), share)


def test_answers_without_statistics_cannot_calibrate() -> None:
    with pytest.raises(QueryError, match="without presence statistics"):
        calibrate([prediction()] * 20, answers(normal(2, 20)))


def test_the_manifest_keeps_the_calibration_and_nothing_else_changes(tmp_path: Path) -> None:
    before = write_bundle(tmp_path)
    assert b"presence" not in manifest_bytes(before)
    presence = calibrated(count=50)
    store_presence(tmp_path, presence)
    after = Bundle.open(tmp_path, verify="always")
    assert after.manifest.presence == presence
    assert after.fingerprint == Bundle(tmp_path, before).fingerprint
    store_presence(tmp_path, None)
    assert read_manifest(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [{"quantiles": (1.0, 0.0)}, {"false_alarm": 0.0}, {"tail": -1.0}, {"statistic": "luck"}],
)
def test_a_manifest_with_a_senseless_calibration_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    document = json.loads(manifest_bytes(write_bundle(tmp_path, presence=calibrated(count=50))))
    document["presence"] |= change
    with pytest.raises(BundleDamagedError):
        parse_manifest(json.dumps(document).encode(), where="bundle.json")


def test_a_calibrated_model_says_no_and_still_gives_its_moments(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file)
    video = grounder.encode_frames(frames_with_red([0, 50, 200, 0]), 0.5)
    first = grounder.ground(video, "a dog")
    assert (first.present, first.presence_score) == (None, None)
    value = first.presence_statistics.max()
    for edge, present in ((value - 1, True), (value + 1, False)):
        presence = msgspec.structs.replace(
            calibrated(count=50), quantiles=tuple((LEVELS + edge - LEVELS[-1]).tolist())
        )
        column = STATISTICS[int(first.presence_statistics.argmax(axis=1)[0])]
        presence = msgspec.structs.replace(presence, statistic=column)
        manifest = msgspec.structs.replace(fake_bundle(tmp_path).manifest, presence=presence)
        grounder.bundle.manifest = manifest
        answer = grounder.ground(video, "a dog")
        assert answer.present is present
        assert answer.presence_score is not None
        assert (answer.presence_score > 0.95) is present
        assert answer.moments == first.moments


def test_every_window_has_its_own_statistics(tmp_path: Path, tokenizer_file: Path) -> None:
    grounder = fake_grounder(tmp_path, tokenizer_file)
    video = grounder.encode_frames(frames_with_red(list(range(0, 120, 10))), 0.5)
    whole = grounder.ground(video, "a dog", window=8, overlap=4)
    assert whole.presence_statistics.shape == (5, len(STATISTICS))
    for index in range(5):
        cut = grounder.ground(video.part(2 * index, 2 * index + 4), "a dog")
        np.testing.assert_allclose(whole.presence_statistics[index], cut.presence_statistics[0])


def test_pairs_are_read_and_their_faults_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('\n{"video": "a.mp4", "query": "x", "belongs": false, "note": 1}\n')
    (pair,) = read_pairs(path)
    assert (pair.video, pair.query, pair.belongs) == ("a.mp4", "x", False)
    path.write_text('{"video": "a.mp4", "query": "x"}\n')
    with pytest.raises(QueryError, match=r"pairs\.jsonl:1: .*belongs"):
        read_pairs(path)
    path.write_text("\n")
    with pytest.raises(QueryError, match="is empty"):
        read_pairs(path)
    with pytest.raises(SourceNotFoundError):
        read_pairs(tmp_path / "none.jsonl")
