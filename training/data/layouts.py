"""Where the files of each data set lie, in the layouts that people have them in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from training.data.annotation import Annotation
from training.data.checks import check_file
from training.data.dataset import GroundingDataset, feature_name
from training.data.errors import AnnotationError
from training.data.features import FeatureFolder, find_feature_folder
from training.data.labels import has_relevant_clip
from training.recipes import Recipe

__all__ = ["Split", "find_annotations", "load_annotations", "open_data"]

Split: TypeAlias = Literal["train", "val", "test"]

_log = logging.getLogger(__name__)

# By data set: the names of its annotation files; the first that is there is read.
_FILES: dict[str, tuple[str, ...]] = {
    "qvhighlights": (
        "qvhighlights_{split}.jsonl",
        "highlight_{split}_release.jsonl",
        "qvhighlights_{split}_release.jsonl",
    ),
    "charades": (
        "charades_{split}.jsonl",
        "charades_{split}_release.jsonl",
        "charades_sta_{split}_tvr_format.jsonl",
        "charades_sta_{split}.txt",
    ),
    "ego4d": ("nlq_{split}.jsonl", "ego4d_{split}.jsonl", "nlq_{split}.json"),
    "tacos": (
        "tacos_{split}.jsonl",
        "tacos_{split}_release.jsonl",
        "{split}.jsonl",
        "{split}.json",
    ),
    "tvsum": ("tvsum_anno.json", "tvsum_{split}.jsonl", "tvsum_{split}_release.jsonl"),
    "youtube": (
        "youtube_anno.json",
        "youtube_{split}.jsonl",
        "youtube_highlight_{split}_release.jsonl",
    ),
}
# Evaluated on `test`; the others on `val`.
_HELD_OUT_TEST = {"charades", "tacos"}


def open_data(
    recipe: Recipe,
    folder: Path | str,
    split: Split,
    *,
    annotations: Path | str | None = None,
    videos: Path | str | None = None,
    queries: Path | str | None = None,
    layers: int | Sequence[int] = 4,
    fps: Fraction | None = None,
    skip_missing: bool = False,
) -> GroundingDataset:
    """Open one split of a data set for training or evaluation.

    Args:
        recipe: which data set, domain and clip rate.
        folder: holds the annotation files and the folders of features, itself or in a folder called
            as the data set.
        split: which part; `val` is the split that the recipe is evaluated on, whatever its name.
        annotations: an annotation file of one's own, in place of the data set's.
        videos: the folder of the videos' features, if it does not follow from its name.
        queries: the folder of the queries' features.
        layers: the last CLIP layers K that the model reads, or which it reads, counted from the
            last, -1.
        fps: clips a second, in place of the recipe's.
        skip_missing: leave out annotations without features, in place of refusing them.

    Returns:
        The samples in the file's order; `train` without those that have no clip to learn from.

    Raises:
        AnnotationError: annotations are missing, or cannot be learned from.
        FeatureError: features are missing.
        SourceNotFoundError: the annotation file cannot be read.
    """
    root = _root(Path(folder), recipe)
    fps = recipe.fps if fps is None else fps
    depth = layers if isinstance(layers, int) else -min(layers)
    video_folder = find_feature_folder(root, "vid", depth) if videos is None else Path(videos)
    query_folder = find_feature_folder(root, "txt", depth) if queries is None else Path(queries)
    features = FeatureFolder(video_folder, dims=4, layers=layers)
    asked = FeatureFolder(query_folder, dims=3, layers=layers)
    if annotations is None:
        path = find_annotations(root, recipe.dataset, split)
        found = load_annotations(path, fps=fps, split=split, repair=True)
        found = _of_domain(found, recipe, split)
    else:
        path = Path(annotations)
        found = load_annotations(
            path,
            fps=fps,
            split=split,
            length_s=partial(_length_s, features, fps),
            # A last clip that is cut short may be left out of the features.
            more_s=1 / float(fps),
            min_video_s=recipe.min_video_s,
        )
        _check_moments(found, recipe, path, split)
    _check_ids(found, asked, path)
    if split == "train":
        found = [annotation for annotation in found if has_relevant_clip(annotation)]
    if not found:
        raise AnnotationError(
            f"{annotations or root}: no annotations of {recipe.name}'s split {split!r}"
        )
    return GroundingDataset(
        found,
        videos=features,
        queries=asked,
        fps=fps,
        skip_missing=skip_missing,
    )


def load_annotations(
    path: Path,
    *,
    fps: Fraction | None = None,
    split: Split = "train",
    repair: bool = False,
    length_s: Callable[[str], float | None] | None = None,
    more_s: float = 0.0,
    min_video_s: float = 0.0,
) -> list[Annotation]:
    """Read annotations that training can use; what is left out is counted in the log.

    Args:
        path: a file of any known form.
        fps: clips a second.
        split: `test` may be without labels.
        repair: take, and count in the log, what the authors' code repairs silently: ends that are
            swapped or beyond the video, as published training sets have some. Without it they are
            refused like any other error.
        length_s: see `check_file`.
        more_s: see `check_file`.
        min_video_s: see `check_file`.

    Raises:
        AnnotationError: the file has errors; the first is reported.
        SourceNotFoundError: the file cannot be read.
    """
    checked = check_file(
        path,
        fps=fps,
        length_s=length_s,
        more_s=more_s,
        min_video_s=min_video_s,
        need_labels=split == "train",
    )
    fatal = [error for error in checked.errors if not (repair and error.repair)]
    if fatal:
        raise AnnotationError(
            f"{fatal[0]} ({len(fatal)} errors in all; `python -m training.data validate {path}` "
            "prints them)"
        )
    for problem in checked.problems:
        if problem.kind == "query-left-out":
            _log.warning("%s", problem)
    if checked.errors:
        first = checked.errors[0]
        _log.warning(
            "%s: %d errors repaired as the authors' code does; the first: %s (%s)",
            *(path, len(checked.errors), first, first.repair),
        )
    return checked.annotations


def find_annotations(folder: Path, dataset: str, split: Split) -> Path:
    """Find the annotation file of a data set's split.

    Raises:
        AnnotationError: none of the known names is there.
    """
    names = []
    for word in _split_names(dataset, split):
        names += [name.format(split=word) for name in _FILES.get(dataset, ("{split}.jsonl",))]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    expected = " or ".join(dict.fromkeys(names))
    raise AnnotationError(f"{folder}: no annotations of {dataset}, {split}; expected {expected}")


def _length_s(features: FeatureFolder, fps: Fraction, vid: str) -> float | None:
    """Length of the video that features are there of."""
    name = feature_name(features, vid)
    return None if name is None else features.length(name) / float(fps)


def _check_moments(
    annotations: Sequence[Annotation], recipe: Recipe, path: Path, split: Split
) -> None:
    """Refuse to train a model that predicts moments on queries that have none."""
    without = [annotation for annotation in annotations if annotation.moments_s is None]
    if split == "train" and recipe.has_offsets and without:
        raise AnnotationError(
            f"{path}:{without[0].place}: error: relevant_windows: missing, and {recipe.name} "
            "predicts moments; give them, or choose a recipe of highlights such as tvsum_bk"
        )


def _check_ids(annotations: Sequence[Annotation], queries: FeatureFolder, path: Path) -> None:
    """Refuse line numbers in the place of ids that features are called by: they are others'."""
    without = next((annotation for annotation in annotations if not annotation.has_id), None)
    if queries.has_qids and without is not None:
        raise AnnotationError(
            f"{path}:{without.place}: error: qid: missing, and features in {queries.folder} are "
            "called by it; take a file with ids, such as charades_train.jsonl, or make features "
            "with `python -m training.extract`"
        )


def _split_names(dataset: str, split: Split) -> tuple[str, ...]:
    if split == "val" and dataset in _HELD_OUT_TEST:
        return ("test", "val")
    return (split,)


def _root(folder: Path, recipe: Recipe) -> Path:
    if not folder.is_dir():
        raise AnnotationError(
            f"{folder}: no such folder; expected one with {recipe.dataset}'s data"
        )
    inner = folder / recipe.dataset
    return inner if inner.is_dir() else folder


def _of_domain(annotations: Sequence[Annotation], recipe: Recipe, split: Split) -> list[Annotation]:
    """The annotations of the recipe's domain and split, by the published lists of videos."""
    if recipe.domain is None:
        return list(annotations)
    splits = _published_splits()[recipe.dataset]
    listed = {vid for parts in splits.values() for vids in parts.values() for vid in vids}
    wanted = set(splits[recipe.domain]["train" if split == "train" else "val"])
    return [
        annotation
        for annotation in annotations
        if annotation.vid in wanted
        or (annotation.vid not in listed and annotation.domain == recipe.domain)
    ]


@cache
def _published_splits() -> dict[str, dict[str, dict[str, list[str]]]]:
    """Data set, domain, split: the videos."""
    content = Path(__file__).with_name("splits.json").read_bytes()
    return msgspec.json.decode(content, type=dict[str, dict[str, dict[str, list[str]]]])
