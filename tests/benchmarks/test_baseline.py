from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from benchmarks.agreement import same_answers, same_images, similar_images
from benchmarks.baseline import Baseline
from benchmarks.harness import Options
from benchmarks.material import VideoSpec, make_video
from benchmarks.ours import Ours
from benchmarks.workload import ModelChoice, Workload, prepare, queries
from tests.conftest import CHECKOUT
from tests.golden_data import one_thread


@pytest.fixture(scope="module")
def baseline(workload: Workload) -> Baseline:
    assert workload.checkpoint is not None
    assert workload.clip is not None
    return Baseline(workload.bundle, workload.checkpoint, workload.clip)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    spec = VideoSpec(seconds=27, width=160, height=90, keyint=50)
    return str(make_video(spec, tmp_path_factory.mktemp("video")))


def test_baseline_agrees_with_the_bundle(
    workload: Workload, baseline: Baseline, video: str, tmp_path: Path
) -> None:
    ours, asked = Ours(workload.bundle), queries(3)
    with one_thread():
        theirs = baseline.ground(video, asked, frames="ours", pixels="ours")
        assert "3 queries" in same_answers(ours.ground(video, asked)["answers"], theirs["answers"])
        kept = baseline.query(video, asked)
        assert "3 queries" in same_answers(ours.query(video, asked)["answers"], kept["answers"])


def test_baseline_takes_our_frames_however_it_decodes(
    workload: Workload, baseline: Baseline, video: str, tmp_path: Path
) -> None:
    paths = [str(tmp_path / f"{name}.npy") for name in ("ours", "same", "torch", "script")]
    Ours(workload.bundle).images(video, paths[0])
    with one_thread():
        baseline.images(video, frames="ours", pixels="ours", path=paths[1])
        baseline.images(video, frames="ours", pixels="torch", path=paths[2])
        baseline.images(video, frames="script", pixels="torch", path=paths[3])
    ours, same, torch, script = (np.load(path) for path in paths)
    assert same_images(ours, same) == "14 images, bit-identical"
    similar_images(ours, torch)
    # The script's frame is the one at the beginning of its clip.
    with pytest.raises(AssertionError):
        similar_images(ours, script)


def test_baseline_decodes_the_scripts_frames_alike_with_and_without_decord(
    baseline: Baseline, video: str, tmp_path: Path
) -> None:
    pytest.importorskip("decord", reason="needs pip install 'r2rt[bench]'")
    paths = [str(tmp_path / f"{name}.npy") for name in ("pyav", "decord")]
    with one_thread():
        baseline.images(video, frames="script", pixels="ours", path=paths[0])
        baseline.images(video, frames="script", pixels="torch", path=paths[1])
    similar_images(np.load(paths[0]), np.load(paths[1]))


def _answer(**changes: Any) -> dict[str, Any]:
    boundaries = [[0.0, 4.0, 0.9], [2.0, 6.0, 0.9], [8.0, 9.0, 0.2]]
    return {"boundaries": boundaries, "saliency": [0.1, 0.2], **changes}


def test_equal_scores_may_change_places() -> None:
    swapped = _answer(boundaries=[[2.0, 6.0, 0.9], [0.0, 4.0, 0.9], [8.0, 9.0, 0.2]])
    same_answers([_answer()], [swapped])


@pytest.mark.parametrize(
    "wrong",
    [
        _answer(boundaries=[[0.0, 4.002, 0.9], [2.0, 6.0, 0.9], [8.0, 9.0, 0.2]]),
        _answer(boundaries=[[0.0, 4.0, 0.9], [2.0, 6.0, 0.8], [8.0, 9.0, 0.2]]),
        _answer(boundaries=[[0.0, 4.0, 0.9], [2.0, 6.0, 0.9]]),
        _answer(saliency=[0.1, 0.201]),
        _answer(saliency=[0.1, float("nan")]),
        _answer(boundaries=[[0.0, float("nan"), 0.9], [2.0, 6.0, 0.9], [8.0, 9.0, 0.2]]),
    ],
    ids=["time", "score", "count", "saliency", "saliency nan", "boundary nan"],
)
def test_answers_that_differ_are_reported(wrong: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        same_answers([_answer()], [wrong])


def test_a_bundle_of_ones_own_without_checkpoint_has_no_baseline(
    workload: Workload, tmp_path: Path
) -> None:
    options = Options(quick=True, repeats=None, out=tmp_path, media=tmp_path, plot=False)
    named = ModelChoice(bundle=workload.bundle, int8=None, checkpoint=None, clip=None)
    without = prepare(named, options).without_baseline
    assert without is not None
    assert "--checkpoint" in without
    provenance = json.loads((workload.bundle / "bundle.json").read_text())["provenance"]
    assert provenance["checkpoint"] in without


def test_an_int8_bundle_of_another_model_is_refused(workload: Workload, tmp_path: Path) -> None:
    options = Options(quick=True, repeats=None, out=tmp_path, media=tmp_path, plot=False)
    other = CHECKOUT / "r2rt" / "demo"
    named = ModelChoice(bundle=workload.bundle, int8=other, checkpoint=None, clip=None)
    with pytest.raises(click.UsageError, match="not an int8 form of"):
        prepare(named, options)


def test_queries_are_all_different() -> None:
    asked = queries(1000) + queries(1000, start=10_000)
    assert len(set(asked)) == len(asked)
    assert queries(2, start=5) == queries(7)[5:]
