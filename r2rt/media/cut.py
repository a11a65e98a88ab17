"""Cutting moments out of their video, one file each."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r2rt.files import StrPath, check_destinations, replacing
from r2rt.grounding.prediction import Moment, Prediction
from r2rt.media.copying import copy_span, copy_suffix
from r2rt.media.indexed_video import Video, indexed
from r2rt.media.movie import Segment, write_movie
from r2rt.media.names import make_folder, moment_names
from r2rt.progress import Update

__all__ = ["Cut", "cut_clips", "padded"]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A moment that was cut out.

    Attributes:
        path: the file.
        query: the sentence that it answers.
        rank: 1 is the best moment of its query.
        asked_start_s: where it was to start, on the source's clock, padding included.
        asked_end_s: where it was to end.
        start_s: where it starts.
        end_s: where it ends.
    """

    path: Path
    query: str
    rank: int
    asked_start_s: float
    asked_end_s: float
    start_s: float
    end_s: float

    @property
    def start_off_s(self) -> float:
        """How much later it starts than asked; negative for earlier."""
        return self.start_s - self.asked_start_s

    @property
    def end_off_s(self) -> float:
        """How much later it ends than asked; negative for earlier."""
        return self.end_s - self.asked_end_s


def cut_clips(
    video: Video,
    predictions: Sequence[Prediction],
    folder: StrPath,
    *,
    label: str | None = None,
    copy: bool = False,
    padding_s: float = 0.0,
    update: Update | None = None,
) -> list[Cut]:
    """Write every moment of a video as a file of its own; either all are written or none.

    By default a moment is encoded anew, which makes it exact to the frame and, for sound, to the
    sample: an mp4 of H.264 and AAC of the same size, shape, rotation, colours and times, with all
    audio tracks. A copy is fast and lossless, but begins with the keyframe before the moment.

    Args:
        video: the file that was grounded, or its path.
        predictions: the answers, with their moments.
        folder: where files go; made if it is not there.
        label: name of the video in the files' names; its own by default.
        copy: copy packets instead of encoding.
        padding_s: seconds to add before and after each moment, as far as the video goes.
        update: called with moments done and their total.

    Returns:
        What was written, queries in order, best moments first.

    Raises:
        OutputError: disk full, no permission; or FFmpeg cannot write it.
        QueryError: a moment lies outside of the video.
        R2rtError: the video cannot be read.
    """
    folder = Path(folder)
    cuts: list[Cut] = []
    with indexed(video) as source, contextlib.ExitStack() as files:
        make_folder(folder)
        suffix = copy_suffix(source) if copy else ".mp4"
        names = moment_names(label or source.path.stem, predictions)
        for name, (prediction, rank, moment) in names:
            start_s, end_s = padded(moment, padding_s, source.duration_s)
            path = folder / f"{name}{suffix}"
            check_destinations([path], [source.path])
            span = source.span(start_s, end_s)
            temporary = files.enter_context(replacing(path))
            if copy:
                span = copy_span(source, span, temporary)
            else:
                write_movie(temporary, [Segment(source, span)])
            cuts.append(
                Cut(
                    path=path,
                    query=prediction.query,
                    rank=rank,
                    asked_start_s=start_s,
                    asked_end_s=end_s,
                    start_s=source.seconds(span.start_pts),
                    end_s=source.seconds(span.end_pts),
                )
            )
            if update is not None:
                update(len(cuts), len(names))
    return cuts


def padded(moment: Moment, padding_s: float, duration_s: float) -> tuple[float, float]:
    """Return a moment's start and end with padding, inside of the video."""
    return (
        min(max(moment.start_s - padding_s, 0.0), moment.start_s),
        max(min(moment.end_s + padding_s, duration_s), moment.end_s),
    )
