"""What there is to make: a job a video, a job a few queries; and this machine's share of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import msgspec

from r2rt.errors import QueryError, SourceNotFoundError
from r2rt.video.fingerprint import fingerprint_file
from training.data.annotation import Annotation
from training.data.layouts import load_annotations
from training.data.videos import VideoFolder, video_id
from training.extraction.errors import ExtractionError

__all__ = ["Job", "Shard", "plan_jobs"]

# Queries of one job: enough that handing it out costs little, few enough to lose when killed.
_QUERIES_A_JOB = 64
_ANNOTATIONS = {".jsonl", ".json", ".txt"}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One video, or some queries.

    Attributes:
        vid: id of the video; its features are called so. None for queries.
        path: the video's file.
        fps: clips a second, as a fraction.
        content: key of the file's content; see `r2rt.video.fingerprint`.
        queries: sentences.
    """

    vid: str | None = None
    path: str = ""
    fps: str = ""
    content: str = ""
    queries: tuple[str, ...] = ()


class Shard(msgspec.Struct, frozen=True):
    """Share number `index` (from 1) of `count` equal ones.

    Raises:
        QueryError: there is no such share.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise QueryError(f"shard {self}; expected 1/{self.count} to {self.count}/{self.count}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `3/8`.

        Raises:
            QueryError: it is not of that form.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None:
            raise QueryError(f"shard {text!r}; expected such as 3/8, the third of eight")
        return cls(int(match[1]), int(match[2]))


def plan_jobs(
    source: Path,
    *,
    videos: Path | None,
    fps: Fraction,
    shard: Shard,
    one_rate: bool = False,
    want_videos: bool = True,
    want_queries: bool = True,
) -> tuple[list[Job], list[str]]:
    """Return the jobs of this share, in an order that is the same everywhere.

    Args:
        source: a video, a folder of videos, or a file of annotations.
        videos: the folder of an annotation file's videos; the one beside it if None.
        fps: clips a second, where annotations do not fix it.
        shard: which share.
        one_rate: take `fps` for all videos, as a bundle does, whatever annotations fix.
        want_videos: whether videos are part of it.
        want_queries: whether the queries of annotations are.

    Returns:
        The jobs, and a line for each video that was not found.

    Raises:
        SourceNotFoundError: there is no such file or folder.
        AnnotationError: the annotations have errors.
        ExtractionError: there is nothing to make.
    """
    missing: list[str] = []
    if source.is_dir():
        jobs = _videos_of_folder(source, fps)
    elif source.suffix.lower() in _ANNOTATIONS:
        annotations = load_annotations(source, fps=fps, split="test", repair=True)
        jobs = []
        if want_videos:
            folder = VideoFolder(source.parent if videos is None else videos)
            rates = {each.vid: fps if one_rate else each.fps or fps for each in annotations}
            jobs, missing = _videos_of_annotations(rates, folder)
        if want_queries:
            jobs += _queries(annotations)
    elif source.is_file():
        jobs = [_video(source.stem, source, fps)]
    else:
        raise SourceNotFoundError(
            f"{source}: no such file or folder; expected a video, a folder of them, or annotations"
        )
    if not jobs and not missing:
        raise ExtractionError(f"{source}: nothing to extract features of")
    mine = slice(shard.index - 1, None, shard.count)
    return jobs[mine], missing[mine]


def _videos_of_folder(folder: Path, fps: Fraction) -> list[Job]:
    files = VideoFolder(folder).files()
    by_id: dict[str, Path] = {}
    for path in files:
        vid = video_id(path.relative_to(folder).as_posix())
        if vid in by_id:
            raise ExtractionError(
                f"{path} and {by_id[vid]} differ in their endings alone and would share one file "
                "of features; rename one"
            )
        by_id[vid] = path
    return [_video(vid, path, fps) for vid, path in sorted(by_id.items())]


def _video(vid: str, path: Path, fps: Fraction) -> Job:
    return Job(vid=vid, path=str(path.resolve()), fps=str(fps), content=fingerprint_file(path))


def _videos_of_annotations(
    rates: Mapping[str, Fraction], folder: VideoFolder
) -> tuple[list[Job], list[str]]:
    jobs, missing = [], []
    for vid in sorted(rates):
        files = folder.candidates(vid)
        if len(files) == 1:
            jobs.append(_video(vid, files[0], rates[vid]))
        elif files:
            names = " and ".join(str(file) for file in files)
            missing.append(f"{vid}: ambiguous, {names}")
        else:
            missing.append(f"{vid}: not in {folder.folder}")
    return jobs, missing


def _queries(annotations: Sequence[Annotation]) -> list[Job]:
    texts = sorted({annotation.query for annotation in annotations})
    return [
        Job(queries=tuple(texts[start : start + _QUERIES_A_JOB]))
        for start in range(0, len(texts), _QUERIES_A_JOB)
    ]
