"""The steps' own work, around the commands that they run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import r2rt.grounding.grounder
import training.evaluation.answering
import training.extract
import training.train
import training.trainer
from tests.r2rt.video.clips import write_video
from training.config import ModelSettings, RunConfig, write_config
from training.data.errors import AnnotationError
from training.data.layouts import load_annotations
from training.errors import TrainingError
from training.metrics import Prediction
from training.own.steps import STEPS, Own, last_line
from training.recipes import RECIPES
from training.trainer.state import Progress

ROW = {"query": "x", "duration": 6.0, "relevant_windows": [[0, 6]]}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    (folder / "inner").mkdir()
    for name in ("a", "inner/b"):
        write_video(folder / f"{name}.mp4", frames=150)
    return folder


def make(tmp_path: Path, videos: Path, *rows: dict[str, Any], **changes: Any) -> Own:
    """A run on two videos of 6 s, of which `validate` keeps one to evaluate on."""
    mine = tmp_path / "mine.jsonl"
    rows = rows or (ROW | {"video": "a.mp4"}, ROW | {"video": "b"})
    mine.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {
        "annotations": mine,
        "videos": videos,
        "out": tmp_path / "run",
        "clip": "r2rt-tiny",
        "val": None,
        "init": None,
        "fps": None,
        "settings": {},
        "workers": 0,
        "seed": 0,
        "say": lambda _: None,
    }
    return Own(**settings | changes)


def write_features(own: Own, layers: int) -> None:
    """Features that carry the number of their layer, counted from the last, -1."""
    places = np.arange(-layers, 0, dtype=np.float16)
    for kind, shape in (("vid", (3, layers, 2, 128)), ("txt", (4, layers, 64))):
        folder = own.features / f"clip_tiny_{kind}_k{layers}"
        folder.mkdir(parents=True)
        values = np.broadcast_to(places.reshape(-1, *(1,) * (len(shape) - 2)), shape)
        for name in ("a", "b", "1", "2"):
            np.save(folder / f"{name}.npy", np.ascontiguousarray(values))


def test_training_reads_the_layers_that_the_model_says(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make(tmp_path, videos, settings={"read": [-1, -6, -2]})
    STEPS["validate"](own)
    asked: list[Sequence[str]] = []

    def extract(arguments: Sequence[str]) -> int:
        asked.append(arguments)
        return 0

    monkeypatch.setattr(training.extract, "main", extract)
    STEPS["extract"](own)
    assert {x[x.index("--layers") + 1] for x in asked} == {"6"}

    write_features(own, 6)
    seen: list[np.ndarray[Any, Any]] = []

    def fit(model: Any, _recipe: Any, samples: Any, **_: Any) -> Path:
        seen.extend(samples[0].video[0, :, 0, 0].numpy())
        assert model.config.read == (-1, -6, -2)
        return own.run / "best.pth"

    monkeypatch.setattr(training.trainer, "fit", fit)
    STEPS["train"](own)
    assert seen == [-1, -6, -2]


def test_a_training_has_the_sizes_of_the_model_that_it_starts_from(
    tmp_path: Path, videos: Path
) -> None:
    model = ModelSettings(width=64, heads=4, read=(-1, -2), layers=2)
    meta = {"config": json.loads(write_config(RunConfig(recipe=RECIPES["charades"], model=model)))}
    weights = {"coef": torch.ones(4)}
    recorded, bare = tmp_path / "recorded.pth", tmp_path / "bare.pth"
    torch.save({"meta": meta, "state_dict": weights}, recorded)
    torch.save({"meta": {}, "state_dict": weights}, bare)
    own = make(tmp_path, videos, init=recorded, settings={"epochs": 3})
    STEPS["validate"](own)
    config = own.config()
    found = config.model
    assert (found.width, found.heads, found.read_layers) == (64, 4, (-1, -2))
    assert (config.recipe.name, config.recipe.epochs) == ("qvhighlights", 3)
    # What is asked for counts, and is compared with the checkpoint later.
    asked = make(tmp_path, videos, init=recorded, settings={"read": [-1]})
    assert asked.config().model.read_layers == (-1,)
    assert make(tmp_path, videos, init=bare).config() == make(tmp_path, videos).config()


def test_an_interrupted_extraction_is_no_failed_one(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make(tmp_path, videos)
    STEPS["validate"](own)
    monkeypatch.setattr(training.extract, "main", lambda _: 130)
    with pytest.raises(KeyboardInterrupt):
        STEPS["extract"](own)


def test_a_training_whose_time_is_up_is_not_done(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make(tmp_path, videos, settings={"max_minutes": 1})
    STEPS["validate"](own)
    write_features(own, 4)
    monkeypatch.setattr(training.trainer, "fit", lambda *_, **__: own.run / "last.pth")
    progress = Progress(step=7, total_steps=300, samples=1)
    monkeypatch.setattr(training.trainer, "read_progress", lambda _: progress)
    with pytest.raises(TrainingError, match="max_minutes are over at step 7 of 300"):
        STEPS["train"](own)


def test_the_videos_that_are_evaluated_on_are_those_of_the_features(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's name alone finds it in a folder below, and a subtitle beside it is no video."""
    own = make(tmp_path, videos)
    STEPS["validate"](own)
    (videos / "a.srt").write_text("1")
    (videos / "inner" / "b.srt").write_text("1")
    own.val_file.write_text(own.train_file.read_text() + own.val_file.read_text())
    asked: dict[str, Path] = {}

    class Model:
        def __enter__(self) -> Model:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def answer(_model: Any, _benchmark: Any, lines: Any, sources: dict[str, Path]) -> Any:
        asked.update(sources)
        return [Prediction(qid=line.qid, pred_relevant_windows=[(0, 6, 1)]) for line in lines]

    monkeypatch.setattr(r2rt.grounding.grounder.Grounder, "load", lambda *_, **__: Model())
    monkeypatch.setattr(training.evaluation.answering, "answer", answer)
    assert "R1@0.5 100.0" in STEPS["evaluate"](own)
    assert asked == {"a": videos / "a.mp4", "b": videos / "inner" / "b.mp4"}


def test_a_video_of_two_names_is_trained_or_evaluated_on(tmp_path: Path, videos: Path) -> None:
    names = ("b", "inner/b.mp4", "a", "inner/b")
    own = make(tmp_path, videos, *(ROW | {"video": name} for name in names))
    STEPS["validate"](own)
    parts = [load_annotations(path) for path in (own.train_file, own.val_file)]
    assert sorted({(a.vid, len(part)) for part in parts for a in part}) == [("a", 1), ("b", 3)]

    alone = make(tmp_path, videos, *(ROW | {"video": name} for name in names[:2]))
    with pytest.raises(AnnotationError, match="one video, 'b'"):
        STEPS["validate"](alone)

    own = make(tmp_path, videos, ROW | {"video": "b"}, val=tmp_path / "val.jsonl")
    (tmp_path / "val.jsonl").write_text(json.dumps(ROW | {"video": "inner/b"}) + "\n")
    STEPS["validate"](own)
    assert [a.vid for a in load_annotations(own.val_file)] == ["b"]


def test_a_video_whose_lines_give_it_several_lengths_is_trained_on(
    tmp_path: Path, videos: Path
) -> None:
    """`validate` takes some that say nothing, and about a second more or less than the file has."""
    lengths: list[dict[str, Any]] = [
        {"video": "a", "duration": 5.5, "relevant_windows": [[0, 5.5]]},
        {"video": "a", "duration": None},
        {"video": "b", "duration": 5.8, "relevant_windows": [[0, 5.7]]},
        {"video": "inner/b", "duration": 6.3, "relevant_windows": [[2, 6.2]]},
    ]
    own = make(tmp_path, videos, *(ROW | {"query": str(n)} | x for n, x in enumerate(lengths)))
    STEPS["validate"](own)
    assert own.config().recipe.fps == own.rate()
    parts = [load_annotations(path) for path in (own.train_file, own.val_file)]
    assert {(a.vid, a.duration_s) for part in parts for a in part} == {("a", 6.0), ("b", 6.3)}


def test_the_last_line_asks_a_sentence_with_any_character(tmp_path: Path, videos: Path) -> None:
    """Word processors end lines with U+2028, which ends no line of JSON."""
    query = "a dog\u2028runs"
    own = make(tmp_path, videos, *(ROW | {"video": name, "query": query} for name in ("a", "b")))
    STEPS["validate"](own)
    assert shlex.split(last_line(own))[-1] == query


@pytest.mark.parametrize("fps", [Fraction(1, 2), Fraction(1)])
def test_ratings_as_qvhighlights_has_them_are_trained_on(
    tmp_path: Path, videos: Path, fps: Fraction
) -> None:
    """Ratings end before the video does, and rate clips of 2 s whatever the run's clips are."""
    longer = {"duration": 6.0, "relevant_clip_ids": [1], "saliency_scores": [[4, 4, 4]]}
    rows = [ROW | longer | {"video": name, "relevant_windows": [[2, 4]]} for name in ("a", "b")]
    own = make(tmp_path, videos, *rows, fps=fps)
    STEPS["validate"](own)
    (line,) = load_annotations(own.train_file, fps=fps)
    assert line.saliency is not None
    assert line.saliency.tolist() == ([0, 1, 0] if fps == Fraction(1, 2) else [0, 0, 1, 1, 0, 0])


def test_saliency_of_another_rate_is_found_before_anything_is_made(
    tmp_path: Path, videos: Path
) -> None:
    write_video(videos / "long.mp4", frames=600)
    short = ROW | {"relevant_windows": [[0, 3]]}
    rated = short | {"video": "long", "duration": 24.0, "saliency": [1.0] * 12}
    own = make(tmp_path, videos, rated, short | {"video": "a"})
    with pytest.raises(AnnotationError, match="1 errors"):
        STEPS["validate"](own)
    assert not own.out.exists()


def test_the_shortest_video_and_wrong_settings_are_found_before_anything_is_made(
    tmp_path: Path, videos: Path
) -> None:
    own = make(tmp_path, videos, settings={"min_video_s": 7})
    with pytest.raises(AnnotationError, match="1 errors"):
        STEPS["validate"](own)
    with pytest.raises(TrainingError, match="did you mean epochs"):
        STEPS["validate"](make(tmp_path, videos, settings={"epoch": 3}))
    assert not own.out.exists()
    STEPS["validate"](make(tmp_path, videos, settings={"min_video_s": 0}))


def test_features_of_another_rate_have_a_folder_of_their_own(tmp_path: Path, videos: Path) -> None:
    first = make(tmp_path, videos).features
    assert make(tmp_path, videos).features == first
    short = [ROW | {"video": name, "relevant_windows": [[0, 3]]} for name in ("a", "b")]
    others = [
        make(tmp_path, videos, *short).features,
        make(tmp_path, videos, clip="other").features,
        make(tmp_path, videos, settings={"read": [-5, -1]}).features,
    ]
    assert len({first, *others}) == 4
