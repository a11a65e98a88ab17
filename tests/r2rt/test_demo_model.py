"""The model that ships with the package: what is promised of it holds for its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import r2rt
from r2rt import Grounder
from r2rt.grounding.moments import interval_iou
from r2rt.model.bundle import Bundle
from r2rt.model.manifest import MANIFEST_NAME
from tests.conftest import CHECKOUT

FOLDER = Path(r2rt.__file__).parent / "demo"
VIDEO = CHECKOUT / "demo" / "emoji.mp4"
LARGEST_BYTES = 12_000_000


@pytest.fixture(scope="module")
def truth() -> list[dict[str, Any]]:
    content = json.loads((CHECKOUT / "demo" / "emoji.json").read_text())
    queries: list[dict[str, Any]] = content["queries"]
    return queries


def ground(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command where no model is installed."""
    home = {"R2RT_HOME": str(tmp_path / "home"), "R2RT_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "r2rt", "ground", str(VIDEO), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | home, check=False
    )


def test_the_bundle_is_whole_and_small() -> None:
    bundle = Bundle.open(FOLDER, verify="always")
    size = sum(file.stat().st_size for file in FOLDER.iterdir())
    assert size <= LARGEST_BYTES
    listed = {*bundle.manifest.files, MANIFEST_NAME, "README.md"}
    assert {file.name for file in FOLDER.iterdir()} == listed
    assert not bundle.manifest.provenance.random_weights
    assert bundle.manifest.verification.passed


def test_the_demo_video_is_small() -> None:
    assert VIDEO.stat().st_size < 1_500_000


def test_every_sentence_of_the_demo_is_found(truth: list[dict[str, Any]]) -> None:
    grounder = Grounder.load(FOLDER, device="cpu")
    video = grounder.encode(VIDEO)
    predictions = grounder.ground(video, [query["query"] for query in truth])
    for query, prediction in zip(truth, predictions, strict=True):
        best = prediction.moments[0]
        iou = interval_iou(np.array([[best.start_s, best.end_s]]), np.array(query["true_s"]))
        assert iou.max() >= 0.5, query["query"]


def test_without_a_model_named_it_answers_and_says_so(
    tmp_path: Path, truth: list[dict[str, Any]]
) -> None:
    result = ground(tmp_path, truth[0]["query"], "--format", "json")
    assert result.returncode == 0, result.stderr
    assert "the demo model of the package" in result.stderr
    assert "does not know" not in result.stderr
    assert json.loads(result.stdout)["results"][0]["moments"]


def test_words_that_it_does_not_know_are_said_aloud(tmp_path: Path) -> None:
    result = ground(tmp_path, "a dog catches a frisbee", "--quiet")
    assert result.returncode in (0, 3), result.stderr
    assert "does not know: 'catches', 'frisbee'" in result.stderr
