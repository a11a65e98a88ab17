"""That training and the validator refuse the same annotations."""

from __future__ import annotations

import json
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from training.data.checks import check_file
from training.data.errors import AnnotationError
from training.data.features import MANIFEST, NAMING, query_name
from training.data.layouts import open_data
from training.data.sample import collate
from training.recipes import RECIPES

# Clips of each video at half a clip a second; a last one is left out or added by rounding.
VIDEOS_S = {"a": 90.0, "b": 11.2, "c": 3.0}
FPS = Fraction(1, 2)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A line of annotations that is mostly sound, and now and then beyond its video."""
    vid = draw(st.sampled_from("aabbc"))
    end = VIDEOS_S[vid]
    row: dict[str, Any] = {"vid": vid, "query": draw(st.sampled_from("xyz"))}
    kind = draw(st.sampled_from(["moments", "moments", "moments", "both", "saliency", "clips"]))
    if kind != "saliency":
        starts = st.floats(0, 1.02).map(lambda share: round(share * end, 1))
        lengths = st.floats(0.1, end / 2).map(lambda length: round(length, 1))
        spans = st.tuples(starts, lengths).map(lambda span: (span[0], round(sum(span), 1)))
        row["relevant_windows"] = draw(st.lists(spans, min_size=1, max_size=2))
    if draw(st.booleans()):
        row["duration"] = end + draw(st.sampled_from([-1.0, -0.3, 0.0, 0.4, 1.0]))
    if kind in ("both", "saliency"):
        count = max(1, int(end * FPS) + draw(st.integers(-5, 5)))
        row["saliency"] = draw(st.lists(st.sampled_from([0, 1]), min_size=count, max_size=count))
    if kind == "clips":
        indices = st.integers(0, int(end * FPS) + 1)
        row["relevant_clip_ids"] = draw(st.lists(indices, min_size=1, max_size=3, unique=True))
        row["saliency_scores"] = [[4, 4, 4]] * len(row["relevant_clip_ids"])
    return row


def write_features(folder: Path) -> None:
    """As `training.extract` makes them."""
    (folder / MANIFEST).write_text(json.dumps({"fps": str(FPS), "schema": NAMING}))
    for kind in ("vid", "txt"):
        (folder / f"clip_b32_{kind}_k4").mkdir()
    for vid, length_s in VIDEOS_S.items():
        shape = (int(length_s * FPS + Fraction(1, 2)), 4, 2, 4)
        np.save(folder / "clip_b32_vid_k4" / f"{vid}.npy", np.zeros(shape, np.float16))
    for text in "xyz":
        path = folder / "clip_b32_txt_k4" / f"{query_name(text)}.npy"
        np.save(path, np.zeros((3, 4, 4), np.float16))


@pytest.mark.slow
@given(st.lists(rows(), min_size=1, max_size=3))
@settings(max_examples=150)
def test_what_the_validator_passes_trains(lines: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "mine.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        checked = check_file(path, fps=FPS, length_s=VIDEOS_S.get, min_video_s=5.0)
        assume(not checked.errors)
        write_features(folder)
        moments = all("relevant_windows" in line for line in lines)
        recipe = RECIPES["qvhighlights" if moments else "tvsum_bk"]
        data = open_data(recipe, folder, "train", annotations=path, fps=FPS)
        usable = [n for n, length in enumerate(data.durations_s) if length >= recipe.min_video_s]
        assert usable
        batch = collate([data[n] for n in usable])
        assert batch.targets.saliency.shape[0] == len(usable)


def test_a_moment_beyond_its_video_is_refused_by_both(tmp_path: Path) -> None:
    write_features(tmp_path)
    path = tmp_path / "mine.jsonl"
    path.write_text('{"vid": "a", "query": "x", "relevant_windows": [[1, 800]]}')
    checked = check_file(path, fps=FPS, length_s=VIDEOS_S.get)
    assert [problem.kind for problem in checked.errors] == ["beyond-duration"]
    with pytest.raises(AnnotationError, match="ends at 800 s, the video ends at 92 s"):
        open_data(RECIPES["qvhighlights"], tmp_path, "train", annotations=path)


def test_a_model_of_moments_needs_moments(tmp_path: Path) -> None:
    write_features(tmp_path)
    path = tmp_path / "mine.jsonl"
    path.write_text('{"vid": "a", "query": "x", "saliency": [1]}'.replace("[1]", str([1] * 45)))
    with pytest.raises(AnnotationError, match="qvhighlights predicts moments"):
        open_data(RECIPES["qvhighlights"], tmp_path, "train", annotations=path)
