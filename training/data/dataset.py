"""The data set that training and evaluation read: annotations, and features beside them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property

from torch.utils.data import Dataset

from training.data.annotation import Annotation
from training.data.errors import FeatureError
from training.data.features import FeatureFolder
from training.data.labels import clip_labels
from training.data.sample import Sample
from training.data.trainable import largest_difference

__all__ = ["GroundingDataset", "feature_name"]

# TACoS's features are called after the camera, its annotations are not.
_ENDINGS = ("", "-cam-002")


def feature_name(videos: FeatureFolder, vid: str) -> str | None:
    """Return the name of a video's features in a folder; None where it has none."""
    return next((f"{vid}{end}" for end in _ENDINGS if f"{vid}{end}" in videos), None)


class GroundingDataset(Dataset[Sample]):
    """Map-style: sample n is annotation n with its features, read when asked for.

    It may be read by several processes at once, and holds no open file.

    Args:
        annotations: in the order of the samples.
        videos: features of the videos.
        queries: features of the queries.
        fps: clips a second, where the annotation does not fix it.
        skip_missing: leave out annotations without features, in place of refusing them.

    Raises:
        FeatureError: features are missing.
    """

    def __init__(
        self,
        annotations: Sequence[Annotation],
        *,
        videos: FeatureFolder,
        queries: FeatureFolder,
        fps: Fraction,
        skip_missing: bool = False,
    ) -> None:
        self._videos = videos
        self._queries = queries
        self._fps = fps
        self._names = {vid: feature_name(videos, vid) for vid in {a.vid for a in annotations}}
        if any(annotation.fps is None for annotation in annotations):
            videos.check_rate(fps)
        there = [a for a in annotations if self._names[a.vid] is not None and self._has_query(a)]
        if len(there) < len(annotations) and not (skip_missing and there):
            raise self._missing(annotations, len(annotations) - len(there))
        self.annotations = tuple(there)

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> Sample:
        annotation = self.annotations[index]
        fps = float(annotation.fps or self._fps)
        name = self._names[annotation.vid] or annotation.vid
        clips = self._videos.length(name)
        if annotation.labels == "grounding" and annotation.duration_s is not None:
            self._check_rate(annotation, clips, fps)
        labels = clip_labels(annotation, clips, fps)
        return Sample(
            video=self._videos.load(name, most=labels.clips),
            query=self._queries.load(self._queries.query(annotation.qid, annotation.query)),
            fps=fps,
            duration_s=self._duration_s(annotation, clips, fps),
            moments_s=labels.moments_s,
            saliency=labels.saliency,
            relevant_clips=labels.relevant_clips,
            qid=annotation.qid,
            vid=annotation.vid,
            text=annotation.query,
        )

    @cached_property
    def durations_s(self) -> tuple[float, ...]:
        """Length of each sample's video in seconds, without reading its features."""
        found = []
        for annotation in self.annotations:
            duration_s = annotation.duration_s
            if duration_s is None:
                name = self._names[annotation.vid] or annotation.vid
                fps = float(annotation.fps or self._fps)
                duration_s = self._duration_s(annotation, self._videos.length(name), fps)
            found.append(duration_s)
        return tuple(found)

    def clips(self, index: int) -> int:
        """Return how many clips a sample has, without reading its features.

        Raises:
            FeatureError: its ratings and features differ too much.
        """
        annotation = self.annotations[index]
        clips = self._videos.length(self._names[annotation.vid] or annotation.vid)
        return clip_labels(annotation, clips, float(annotation.fps or self._fps)).clips

    def _has_query(self, annotation: Annotation) -> bool:
        return self._queries.query(annotation.qid, annotation.query) in self._queries

    def _duration_s(self, annotation: Annotation, clips: int, fps: float) -> float:
        return clips / fps if annotation.duration_s is None else annotation.duration_s

    def _check_rate(self, annotation: Annotation, clips: int, fps: float) -> None:
        expected = (annotation.duration_s or 0.0) * fps
        if abs(clips - expected) > largest_difference(annotation, annotation.fps or self._fps):
            raise FeatureError(
                f"{self._videos.folder}: video {annotation.vid!r} of {annotation.duration_s:g} s "
                f"has {clips} clips, expected about {expected:.0f} at {fps:g} a second; extract "
                "features at the recipe's rate"
            )

    def _missing(self, annotations: Sequence[Annotation], count: int) -> FeatureError:
        names = [vid for vid, name in self._names.items() if name is None]
        if names:
            what, folder = f"video {min(names)!r}", self._videos.folder
        else:
            lacking = next(a for a in annotations if not self._has_query(a))
            what, folder = f"query {lacking.qid!r}, {lacking.query!r}", self._queries.folder
        return FeatureError(
            f"{folder}: no features of {what} and {count} of {len(annotations)} annotations in "
            "all; make them with `python -m training.extract`, or leave those out"
        )
