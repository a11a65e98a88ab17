"""The checks of an annotation file: of each record, of all together, and of their videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

from training.data.annotation import Annotation, Problem
from training.data.record_check import RecordCheck
from training.data.records import Record, read_records
from training.data.trainable import check_trainable, largest_difference
from training.data.videos import VideoFolder

__all__ = ["Checked", "check_file"]

_SAME_DURATION_S = 0.1
# Containers and annotators round: a video's duration may differ from its file's by so much.
_FILE_DURATION_S = 1.0
_FILE_DURATION_SHARE = 0.02
# Problems that stand for a record that could not be made.
_NO_RECORD = {"not-json", "not-an-object", "duplicate-field", "not-charades"}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A file that was read.

    Attributes:
        annotations: of the records that can be used, in order.
        problems: in order of the file.
        records: records in the file, good and bad.
    """

    annotations: list[Annotation]
    problems: list[Problem]
    records: int

    @property
    def errors(self) -> list[Problem]:
        """The problems that are no mere warnings."""
        return [problem for problem in self.problems if problem.severity == "error"]


def check_file(
    path: Path,
    *,
    fps: Fraction | None = None,
    videos: VideoFolder | None = None,
    length_s: Callable[[str], float | None] | None = None,
    more_s: float = 0.0,
    min_video_s: float = 0.0,
    need_labels: bool = True,
) -> Checked:
    """Read an annotation file of any known form, and say all that is wrong with it.

    Training and `python -m training.data validate` both call this, so they refuse the same. A
    record whose problems can all be repaired as the authors' code does (see `Problem.repair`)
    still becomes an annotation, unrepaired.

    Args:
        path: the file.
        fps: clips a second that its saliency has; None where unknown. Clips that are rated as
            QVHighlights', by their index, last 2 s whatever the rate.
        videos: where each video must be found.
        length_s: length of a video in seconds by its id, None where unknown; by default that of its
            file in `videos`. It counts where a record does not say how long its video is.
        more_s: by how much `length_s` may be too short, in seconds: a last clip may be left out.
        min_video_s: shorter videos are not trained on, in seconds.
        need_labels: whether a record without anything to learn is an error.

    Raises:
        SourceNotFoundError: the file cannot be read.
    """
    records, problems = read_records(path)
    if records and all(_is_prediction(record) for record in records):
        problem = Problem(
            kind="predictions",
            path=str(path),
            place=None,
            field=None,
            message="a file of predictions, not of annotations; evaluate it with "
            "`python -m training.evaluate`",
        )
        return Checked(annotations=[], problems=[*problems, problem], records=len(records))
    if length_s is None:
        length_s = cache(partial(_length_s, videos))
    annotations = []
    for record in records:
        check = RecordCheck(str(path), record, fps, min_video_s, need_labels, length_s, more_s)
        annotation = check.annotation()
        problems.extend(check.problems)
        if annotation is not None:
            annotations.append(annotation)
    problems.extend(_check_together(str(path), annotations))
    if videos is not None:
        problems.extend(_check_videos(str(path), annotations, videos, fps))
    if need_labels and annotations:
        problems.extend(check_trainable(str(path), annotations, length_s, min_video_s))
    order = {record.place: record.number for record in records}
    problems.sort(key=lambda problem: _position(problem.place, order))
    total = len(records) + sum(problem.kind in _NO_RECORD for problem in problems)
    return Checked(annotations=annotations, problems=problems, records=total)


def _check_together(path: str, annotations: Sequence[Annotation]) -> Iterable[Problem]:
    """What only shows when a file's annotations are compared."""
    qids: dict[str, str] = {}
    asked: dict[tuple[str, str], str] = {}
    durations: dict[str, tuple[float, str]] = {}

    def problem(kind: str, at: Annotation, field: str, message: str, **more: Any) -> Problem:
        return Problem(kind=kind, path=path, place=at.place, field=field, message=message, **more)

    for each in annotations:
        # 7 and "7" would share a file of features.
        before = qids.setdefault(str(each.qid), each.place)
        if before != each.place:
            yield problem(
                "duplicate-qid",
                each,
                "qid",
                f"{each.qid!r} is that of line {before} too; give each query its own",
            )
        before = asked.setdefault((each.vid, each.query), each.place)
        if before != each.place:
            yield problem(
                "duplicate-query",
                each,
                "query",
                f"asked of {each.vid!r} in line {before} already; join the moments in one line",
                severity="warning",
            )
        if each.duration_s is None:
            continue
        known, place = durations.setdefault(each.vid, (each.duration_s, each.place))
        if abs(known - each.duration_s) > _SAME_DURATION_S:
            yield problem(
                "duration-differs",
                each,
                "duration",
                f"{each.duration_s:g} s, but {known:g} s in line {place} for the same video "
                f"{each.vid!r}; correct either",
            )


def _length_s(videos: VideoFolder | None, vid: str) -> float | None:
    """Length of a video's file, where there is one."""
    files = [] if videos is None else videos.candidates(vid)
    return videos.duration_s(files[0]) if videos is not None and len(files) == 1 else None


def _check_videos(
    path: str, annotations: Sequence[Annotation], videos: VideoFolder, fps: Fraction | None
) -> Iterable[Problem]:
    """Whether each video is there and lasts as long as annotated; one problem a video."""
    seen = set()
    for each in annotations:
        if each.vid in seen:
            continue
        seen.add(each.vid)
        files = videos.candidates(each.vid)
        kind, message = "", ""
        if not files:
            close = videos.closest(each.vid)
            hint = f"; did you mean {close!r}?" if close else "; put it there, or correct the id"
            kind, message = "unknown-video", f"{each.vid!r} is not in {videos.folder}{hint}"
        elif len(files) > 1:
            names = " and ".join(str(file.relative_to(videos.folder)) for file in files[:3])
            # Ids have no suffix, so two files that differ in it alone have the same path as id.
            same = len({file.with_suffix("") for file in files}) == 1
            hint = "rename or move all but one" if same else "name one by its path"
            kind, message = "ambiguous-video", f"{each.vid!r} may be {names}; {hint}"
        elif not files[0].stat().st_size:
            kind, message = "empty-video", f"{files[0]} has no content; fetch it again"
        if kind:
            yield Problem(kind=kind, path=path, place=each.place, field="vid", message=message)
        elif each.duration_s is not None:
            length_s = videos.duration_s(files[0])
            most_s = max(_FILE_DURATION_S, _FILE_DURATION_SHARE * each.duration_s)
            rate = each.fps or fps
            if rate is not None:
                # The clip that is cut off at the end counts or does not.
                most_s = min(most_s, float((largest_difference(each, rate) - 1) / rate))
            if length_s is not None and abs(length_s - each.duration_s) > most_s:
                yield Problem(
                    kind="duration-not-of-file",
                    path=path,
                    place=each.place,
                    field="duration",
                    message=f"{each.duration_s:g} s, but {files[0]} lasts {length_s:.6g} s; "
                    "correct it, or get the right video",
                )


def _is_prediction(record: Record) -> bool:
    return "relevant_windows" not in record.fields and any(
        name.startswith("pred_") for name in record.fields
    )


def _position(place: str | None, order: dict[str, int]) -> int:
    """Where in its file a place is: by lines, or by the records' order where keys name them."""
    if place is None:
        return 0
    return int(place) if place.isdecimal() else order.get(place, 0)
