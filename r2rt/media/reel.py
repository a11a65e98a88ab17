"""A reel: moments of one or several videos, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from r2rt.errors import OutputError
from r2rt.files import StrPath, replacing
from r2rt.grounding.prediction import Prediction
from r2rt.media.cut import padded
from r2rt.media.material import Material, Span
from r2rt.media.movie import Segment, write_movie

__all__ = ["Reel", "write_reel"]

Update = Callable[[int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class Reel:
    """A reel that was written: how many parts it joins, and its length in seconds."""

    path: Path
    parts: int
    duration_s: float


def write_reel(
    videos: Sequence[tuple[StrPath, Sequence[Prediction]]],
    path: StrPath,
    *,
    padding_s: float = 0.0,
    update: Update | None = None,
) -> Reel:
    """Join the moments of videos into one mp4, encoded once.

    Videos come in the order given, and the moments of each in the order of the video, whichever
    query they answer. Moments that overlap or touch are shown once.

    Args:
        videos: files that were grounded, each with what it was asked.
        path: the mp4 to write.
        padding_s: seconds to add before and after each moment, as far as the video goes.
        update: is told pictures done of all.

    Raises:
        OutputError: there is no moment at all, disk full, no permission; or FFmpeg cannot write it.
        QueryError: a moment lies outside of its video.
        R2rtError: a video cannot be read.
    """
    path = Path(path)
    segments = [
        segment
        for video, predictions in videos
        if any(prediction.moments for prediction in predictions)
        for segment in _segments(Path(video), predictions, padding_s)
    ]
    if not segments:
        raise OutputError(f"{path}: no moment was found, so there is nothing to make a reel of")
    with replacing(path) as temporary:
        write_movie(temporary, segments, update)
    return Reel(
        path=path,
        parts=len(segments),
        duration_s=float(sum(segment.duration_s for segment in segments)),
    )


def _segments(video: Path, predictions: Sequence[Prediction], padding_s: float) -> list[Segment]:
    material = Material(video)
    spans = sorted(
        (
            material.span(*padded(moment, padding_s, material.duration_s))
            for prediction in predictions
            for moment in prediction.moments
        ),
        key=lambda span: (span.start_pts, span.end_pts),
    )
    joined: list[Span] = []
    for span in spans:
        if joined and span.start_pts <= joined[-1].end_pts:
            end_pts = max(span.end_pts, joined[-1].end_pts)
            joined[-1] = Span(start_pts=joined[-1].start_pts, end_pts=end_pts)
        else:
            joined.append(span)
    return [Segment(material, span) for span in joined]
