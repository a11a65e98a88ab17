from __future__ import annotations

import json
import logging
import pickle
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.data.annotation import Annotation, Labels
from training.data.errors import AnnotationError, FeatureError
from training.data.features import MANIFEST, NAMING, FeatureFolder, query_name
from training.data.labels import clip_labels, has_relevant_clip, moments_in_video
from training.data.layouts import Split, load_annotations, open_data
from training.data.sample import collate
from training.recipes import RECIPES

K, P, CV, CT = 4, 5, 8, 6


def write_features(folder: Path, name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng([seed, len(name)]).standard_normal(shape).astype(np.float16)
    np.save(folder / f"{name}.npy", array)
    return array


def layout(
    root: Path, annotations: str, rows: list[dict[str, Any]] | str, clips: dict[str, int]
) -> None:
    """The authors' layout: annotations, and features of these videos and of all queries."""
    root.mkdir(parents=True, exist_ok=True)
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    (root / annotations).write_text(text)
    for vid, count in clips.items():
        write_features(root / "clip_b32_vid_k4", vid, (count, K, P, CV))
    if not isinstance(rows, str):
        for row in rows:
            qid = str(row.get("qid", ""))
            write_features(root / "clip_b32_txt_k4", qid, (3 + len(qid), K, CT))


QV = {
    "qid": 7,
    "vid": "a_0.0_150.0",
    "query": "x",
    "duration": 20,
    "relevant_windows": [[2, 8], [14, 16]],
    "relevant_clip_ids": [1, 2, 3, 7],
    "saliency_scores": [[2, 3, 1], [4, 4, 4], [0, 0, 0], [1, 1, 1]],
}


def test_qvhighlights_in_the_authors_layout(tmp_path: Path) -> None:
    root = tmp_path / "data" / "qvhighlights"
    layout(root, "qvhighlights_train.jsonl", [QV], {"a_0.0_150.0": 10})
    for folder in (tmp_path / "data", root):
        data = open_data(RECIPES["qvhighlights"], folder, "train")
        assert len(data) == 1
        assert data.durations_s == (20.0,)
        sample = data[0]
        assert (sample.qid, sample.vid, sample.text, sample.fps) == (7, "a_0.0_150.0", "x", 0.5)
        assert sample.video.shape == (10, K, P, CV)
        assert sample.video.dtype == torch.float16
        assert sample.query.shape == (4, K, CT)
        stored = np.load(root / "clip_b32_vid_k4" / "a_0.0_150.0.npy")
        assert np.array_equal(sample.video.numpy(), stored)
        assert sample.moments_s is not None
        assert sample.moments_s.tolist() == [[2, 8], [14, 16]]
        expected = [0, 6 / 12, 1, 0, 0, 0, 0, 3 / 12, 0, 0]
        np.testing.assert_allclose(sample.saliency, expected, rtol=1e-6)
        # Rated clips of saliency 0 are not learned from.
        assert sample.relevant_clips.tolist() == [1, 2, 7]
    batch = collate([data[0], data[0]])
    assert batch.video.shape[0] == 2


def test_charades_text_and_moments_without_ratings(tmp_path: Path) -> None:
    layout(
        tmp_path,
        "charades_sta_train.txt",
        "A1 0.0 2.4##one\nA1 3.5 30.4##two\nA1 4.6 4.6##three\n",
        {"A1": 9},
    )
    (tmp_path / MANIFEST).write_text(json.dumps({"fps": "1", "schema": NAMING}))
    for text in ("one", "two", "three"):
        write_features(tmp_path / "clip_b32_txt_k4", query_name(text), (4, K, CT))
    data = open_data(RECIPES["charades"], tmp_path, "train")
    # Without a duration in the file, the features give it: 9 clips of 1 s.
    assert data.durations_s == (9.0, 9.0, 9.0)
    first, second, third = (data[index] for index in range(3))
    assert first.saliency.tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert second.moments_s is not None
    assert second.moments_s.tolist() == [[3.5, 9]]
    assert second.relevant_clips.tolist() == [4, 5, 6, 7, 8]
    assert third.moments_s is not None
    np.testing.assert_allclose(third.moments_s, [[4.1, 5.1]], rtol=1e-6)
    assert third.relevant_clips.tolist() == [5]


@pytest.mark.parametrize("own", [False, True])
def test_line_numbers_are_no_ids_that_features_are_called_by(tmp_path: Path, own: bool) -> None:
    """The authors' features of Charades-STA have the ids of a jsonl file of another order."""
    name = "mine.jsonl" if own else "charades_sta_train.txt"
    row = {"vid": "A1", "query": "one", "relevant_windows": [[0, 2.4]]}
    layout(tmp_path, name, json.dumps(row) if own else "A1 0.0 2.4##one\n", {"A1": 9})
    write_features(tmp_path / "clip_b32_txt_k4", "1", (4, K, CT))
    with pytest.raises(AnnotationError) as caught:
        open_data(
            RECIPES["charades"],
            tmp_path,
            "train",
            annotations=tmp_path / name if own else None,
            skip_missing=True,
        )
    assert str(caught.value).startswith(f"{tmp_path / name}:1: error: qid: missing, and features")
    assert "charades_train.jsonl" in str(caught.value)


def test_charades_is_evaluated_on_its_test_split(tmp_path: Path) -> None:
    row = {"qid": 1, "vid": "A1", "query": "x", "duration": 9.0, "relevant_windows": [[1, 2]]}
    layout(tmp_path, "charades_test.jsonl", [row], {"A1": 9})
    assert len(open_data(RECIPES["charades"], tmp_path, "val")) == 1
    with pytest.raises(AnnotationError, match=r"charades_train\.jsonl or"):
        open_data(RECIPES["charades"], tmp_path, "train")


def test_tacos_features_are_called_after_the_camera(tmp_path: Path) -> None:
    row = {"qid": "s30_0", "vid": "s30", "query": "x", "duration": 40, "relevant_windows": [[4, 9]]}
    layout(tmp_path, "train.jsonl", [row], {"s30-cam-002": 20})
    sample = open_data(RECIPES["tacos"], tmp_path, "train")[0]
    assert sample.vid == "s30"
    assert len(sample.video) == 20


def test_tvsum_by_domain_and_median(tmp_path: Path) -> None:
    ratings = [[1] * 20, [3] * 20, [2] * 20, [5] * 20]  # 0, 1/2, 1/4, 1; lower median 1/4
    anno = {
        vid: {"title": "t", "anno": ratings}
        for vid in ("WxtbjNsCQ8A", "EE-bNr36nyA", "Se3oxnaPsz0", "eQu1rNs0an0")
    }
    anno["uGu_10sucQo"] = {"title": "flat", "anno": [[3] * 20] * 4}  # nothing above its median
    layout(tmp_path / "tvsum", "tvsum_anno.json", json.dumps(anno), dict.fromkeys(anno, 6))
    for vid in anno:
        write_features(tmp_path / "tvsum" / "clip_b32_txt_k4", vid, (4, K, CT))
    data = open_data(RECIPES["tvsum_bk"], tmp_path, "train")
    assert sorted(a.vid for a in data.annotations) == ["EE-bNr36nyA", "WxtbjNsCQ8A"]
    sample = data[0]
    # Features of 6 clips, ratings of 4: what both have.
    assert sample.video.shape[0] == 4
    assert sample.saliency.tolist() == [0, 0.5, 0.25, 1]
    assert sample.relevant_clips.tolist() == [1, 3]
    assert sample.moments_s is None
    held_out = open_data(RECIPES["tvsum_bk"], tmp_path, "val")
    assert [a.vid for a in held_out.annotations] == ["Se3oxnaPsz0"]


def test_youtube_by_domain_and_its_own_rate(tmp_path: Path) -> None:
    rows = [
        {"qid": "new", "vid": "new", "query": "dog", "domain": "dog", "duration": 8.0}
        | {"match": [-1, 0, 1, 1], "label": [[0], [0], [1], [1]]},
        {"qid": "none", "vid": "none", "query": "dog", "domain": "dog", "duration": 8.0}
        | {"match": [-1, 0, 0, -1]},
        {"qid": "surf", "vid": "surf", "query": "surfing", "domain": "surfing", "duration": 8.0}
        | {"match": [1, 1]},
    ]
    layout(tmp_path, "youtube_train.jsonl", rows, {"new": 4, "none": 4, "surf": 2})
    data = open_data(RECIPES["youtube_dog"], tmp_path, "train")
    (sample,) = (data[index] for index in range(len(data)))
    assert sample.saliency.tolist() == [0, 0.5, 1, 1]
    assert sample.relevant_clips.tolist() == [2, 3]
    assert sample.fps == 0.5


def test_ones_own_annotations(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    rows = [
        {"qid": 1, "video": "a.mp4", "query": "x", "relevant_windows": [[1, 2]]},
        {"qid": 2, "video": "b.mp4", "query": "y", "relevant_windows": [[0, 4]]}
        | {"saliency": [0, 0, 0, 0]},
    ]
    layout(tmp_path, "own.jsonl", rows, {"a": 8, "b": 4})
    data = open_data(RECIPES["qvhighlights"], tmp_path, "train", annotations=own, fps=Fraction(1))
    assert data[0].relevant_clips.tolist() == [1]
    # Rated 0 throughout: what is inside the moment is drawn from.
    assert data[1].relevant_clips.tolist() == [0, 1, 2, 3]
    assert not data[1].saliency.any()


def test_published_errors_are_repaired_and_ones_own_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"qid": 1, "vid": "a", "query": "x", "duration": 20, "relevant_windows": [[9, 3]]}]
    layout(tmp_path, "nlq_train.jsonl", rows, {"a": 10})
    with caplog.at_level(logging.WARNING):
        sample = open_data(RECIPES["ego4d"], tmp_path, "train")[0]
    assert "1 errors repaired" in caplog.text
    assert "they are swapped" in caplog.text
    assert sample.moments_s is not None
    assert sample.moments_s.tolist() == [[3, 9]]
    with pytest.raises(AnnotationError, match=r"nlq_train.jsonl:1: error: .* swap them") as error:
        load_annotations(tmp_path / "nlq_train.jsonl")
    assert error.value.exit_code == 60


def test_ego4ds_queries_without_a_sentence_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The official files have some."""
    window = {"clip_start_sec": 3.5, "clip_end_sec": 6.5}
    texts: list[dict[str, Any]] = [{"query": None}, {}, {"query": ""}, {"query": "x"}]
    clip = {
        "clip_uid": "c1",
        "video_start_sec": 100.0,
        "video_end_sec": 120.0,
        "annotations": [
            {"annotation_uid": "u", "language_queries": [window | text for text in texts]}
        ],
    }
    document = json.dumps({"version": "1", "videos": [{"clips": [clip]}]})
    layout(tmp_path, "nlq_train.json", document, {"c1": 10})
    write_features(tmp_path / "clip_b32_txt_k4", "u_3", (4, K, CT))
    with caplog.at_level(logging.WARNING):
        data = open_data(RECIPES["ego4d"], tmp_path, "train")
    assert [a.qid for a in data.annotations] == ["u_3"]
    assert caplog.messages == [
        f"{tmp_path / 'nlq_train.json'}: warning: 3 queries without a sentence are left out; "
        "the first: u_0"
    ]


def test_ones_own_moments_lie_within_the_features_where_nothing_else_reports(
    tmp_path: Path,
) -> None:
    rows = [
        {"qid": 1, "video": "a.mp4", "query": "x", "relevant_windows": [[2, 21.5]]},
        {"qid": 2, "video": "a.mp4", "query": "y", "relevant_windows": [[2, 4], [50, 60]]},
    ]
    layout(tmp_path, "mine.jsonl", rows, {"a": 10})
    recipe, mine = RECIPES["qvhighlights"], tmp_path / "mine.jsonl"
    with pytest.raises(AnnotationError) as caught:
        open_data(recipe, tmp_path, "train", annotations=mine)
    # The clip that was cut off at the video's end may hold a moment's end.
    assert str(caught.value).startswith(
        f"{mine}:2: error: relevant_windows[1]: starts at 50 s, the video ends at 22 s;"
    )
    assert "(1 errors in all;" in str(caught.value)


def test_a_test_split_needs_no_labels(tmp_path: Path) -> None:
    row = {"qid": 1, "vid": "a", "query": "x", "duration": 20}
    layout(tmp_path, "highlight_test_release.jsonl", [row], {"a": 10})
    sample = open_data(RECIPES["qvhighlights"], tmp_path, "test")[0]
    assert sample.moments_s is None
    assert not len(sample.relevant_clips)
    assert not sample.saliency.any()


def test_features_that_cannot_be_used(tmp_path: Path) -> None:
    def opened(split: Split = "train", **options: Any) -> Any:
        return open_data(RECIPES["qvhighlights"], tmp_path, split, **options)

    rows = [QV, QV | {"qid": 8, "vid": "b", "query": "y"}]
    layout(tmp_path, "qvhighlights_train.jsonl", rows, {"a_0.0_150.0": 10})
    with pytest.raises(FeatureError, match="no features of video 'b' and 1 of 2") as error:
        opened()
    assert error.value.exit_code == 62
    data = opened(skip_missing=True)
    assert [a.qid for a in data.annotations] == [7]

    path = tmp_path / "clip_b32_vid_k4" / "a_0.0_150.0.npy"
    write_features(path.parent, path.stem, (20, K, P, CV))
    with pytest.raises(FeatureError, match=r"has 20 clips, expected about 10 at 0\.5 a second"):
        data[0]
    write_features(path.parent, path.stem, (10, 2, P, CV))
    with pytest.raises(FeatureError, match="2 CLIP layers, the model reads 4"):
        data[0]
    write_features(path.parent, path.stem, (10, 64))
    with pytest.raises(FeatureError, match=r"shape \(10, 64\), expected \(T, K, P, Cv\)"):
        data[0]
    np.save(path, np.zeros((10, K, P, CV), np.int64))
    with pytest.raises(FeatureError, match="int64"):
        data[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FeatureError, match="damaged"):
        data[0]
    with path.open("wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FeatureError, match="damaged"):
        data[0]
    path.unlink()
    with pytest.raises(FeatureError, match="missing"):
        data[0]


def test_folders_of_features_are_distinguished(tmp_path: Path) -> None:
    layout(tmp_path, "qvhighlights_train.jsonl", [QV], {"a_0.0_150.0": 10})
    recipe = RECIPES["qvhighlights"]
    other = tmp_path / "clip_l14_vid_k4"
    other.mkdir()
    with pytest.raises(FeatureError, match="several folders of features"):
        open_data(recipe, tmp_path, "train")
    named = open_data(recipe, tmp_path, "train", videos=tmp_path / "clip_b32_vid_k4")
    assert len(named) == 1
    other.rmdir()
    # More layers than the model reads: the last ones.
    (tmp_path / "clip_b32_vid_k4").rename(tmp_path / "x")
    stored = write_features(tmp_path / "clip_b32_vid_k6", "a_0.0_150.0", (10, 6, P, CV))
    sample = open_data(recipe, tmp_path, "train")[0]
    assert np.array_equal(sample.video.numpy(), stored[:, 2:])
    with pytest.raises(AnnotationError, match="no such folder"):
        open_data(recipe, tmp_path / "none", "train")
    layout(tmp_path / "bare", "qvhighlights_train.jsonl", [QV], {})
    (tmp_path / "bare" / "clip_b32_txt_k4").rename(tmp_path / "bare" / "queries")
    with pytest.raises(FeatureError, match="no folder of features such as clip_b32_vid_k4"):
        open_data(recipe, tmp_path / "bare", "train")


def test_flattened_features_get_their_dimensions_back(tmp_path: Path) -> None:
    stored = write_features(tmp_path, "v", (6, K * P * CV))
    folder = FeatureFolder(tmp_path, dims=4, layers=K, flat_width=CV)
    assert np.array_equal(folder.load("v").numpy(), stored.reshape(6, K, P, CV))
    stored = write_features(tmp_path, "q", (6, K * CT))
    queries = FeatureFolder(tmp_path, dims=3, layers=K, flat_width=CT)
    assert np.array_equal(queries.load("q").numpy(), stored.reshape(6, K, CT))


def test_a_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    write_features(tmp_path, "outside", (6, K, P, CV))
    (tmp_path / "in").mkdir()
    with pytest.raises(FeatureError, match="cannot be the name"):
        FeatureFolder(tmp_path / "in", dims=4).load("../outside")


def test_a_data_set_can_be_sent_to_another_process(tmp_path: Path) -> None:
    layout(tmp_path, "qvhighlights_train.jsonl", [QV], {"a_0.0_150.0": 10})
    data = open_data(RECIPES["qvhighlights"], tmp_path, "train")
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[0].video, data[0].video)


def annotation(moments: Any, saliency: Any = None) -> Annotation:
    return Annotation(
        qid=1,
        vid="v",
        query="x",
        duration_s=None,
        moments_s=moments,
        saliency=saliency,
        labels="grounding",
        fps=None,
        domain=None,
        place="1",
    )


@given(
    moments=st.lists(
        st.tuples(st.floats(-20, 90, width=32), st.floats(-20, 90, width=32)),
        min_size=1,
        max_size=4,
    ),
    clips=st.integers(1, 60),
    fps=st.sampled_from([0.5, 1.0, 3 / 5, 1 / 3, 2.0, 29.97 / 50]),
)
def test_any_moment_lies_in_its_video_and_has_clips(
    moments: list[tuple[float, float]], clips: int, fps: float
) -> None:
    found = moments_in_video(tuple(moments), clips, fps)
    slack = 1e-4
    assert (found[:, 0] >= -slack).all()
    assert (found[:, 1] <= clips / fps + slack).all()
    assert (found[:, 1] - found[:, 0] >= 1 / fps - slack).all()
    labels = clip_labels(annotation(tuple(moments)), clips, fps)
    assert labels.clips == clips
    assert len(labels.relevant_clips) >= 1
    # By hand, where the rate makes seconds and clips exact: a clip that begins inside is salient.
    if fps in {0.5, 1.0, 2.0}:
        begins = [
            [low <= clip / fps < high for clip in range(clips)] for low, high in found.tolist()
        ]
        if all(map(any, begins)):
            assert labels.saliency.tolist() == [float(any(c)) for c in zip(*begins, strict=True)]


@pytest.mark.parametrize("labels", ["tvsum", "youtube"])
def test_a_rating_behind_the_features_leaves_a_clip_to_learn_from(labels: Labels) -> None:
    """Otherwise training would end at that sample, in the middle of a run."""
    rated = replace(annotation(None, np.array([0, 0, 0, 0, 1], np.float32)), labels=labels)
    assert has_relevant_clip(rated)
    assert clip_labels(rated, 5, 0.5).relevant_clips.tolist() == [4]
    assert clip_labels(rated, 3, 0.5).relevant_clips.tolist() == [2]
    nothing = replace(rated, saliency=np.zeros(5, np.float32))
    assert clip_labels(nothing, 3, 0.5).relevant_clips.tolist() == []


@pytest.mark.slow
@pytest.mark.shared("annotations")
def test_published_annotations_become_samples(shared: Path, tmp_path: Path) -> None:
    """With features of the length that the authors' have."""
    for name, file in (
        ("qvhighlights", "qvhighlights_val.jsonl"),
        ("charades", "charades_test.jsonl"),
        ("tacos", "tacos_test.jsonl"),
    ):
        fps = float(RECIPES[name].fps)
        annotations = load_annotations(shared / file, fps=RECIPES[name].fps, split="val")
        for one in annotations[::19]:
            assert one.duration_s is not None
            labels = clip_labels(one, int(one.duration_s * fps), fps)
            assert len(labels.relevant_clips)
            assert labels.saliency.max() <= 1
            assert labels.moments_s is not None
            assert one.moments_s is not None
            assert len(labels.moments_s) == len(one.moments_s)
    for name in ("tvsum_bk", "tvsum_vt", "youtube_dog", "youtube_ski"):
        dataset = RECIPES[name].dataset
        root = tmp_path / dataset
        if not root.exists():
            root.mkdir()
            (root / f"{dataset}_val.jsonl").symlink_to(shared / f"{dataset}_val.jsonl")
            for one in load_annotations(root / f"{dataset}_val.jsonl", split="val"):
                assert one.saliency is not None
                clips = len(one.saliency)
                write_features(root / "clip_b32_vid_k4", one.vid, (clips, K, 1, 1))
                write_features(root / "clip_b32_txt_k4", str(one.qid), (3, K, 1))
        data = open_data(RECIPES[name], tmp_path, "val")
        assert {a.domain for a in data.annotations} == {RECIPES[name].domain}
        for index in range(len(data)):
            sample = data[index]
            assert 0 <= sample.saliency.min() <= sample.saliency.max() <= 1
            assert len(sample.relevant_clips) or dataset == "youtube"
