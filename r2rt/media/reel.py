"""A reel: moments of one or several videos, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r2rt.errors import OutputError
from r2rt.files import StrPath, check_destinations, replacing
from r2rt.grounding.prediction import Prediction
from r2rt.media.cut import padded
from r2rt.media.indexed_video import IndexedVideo, Span, Video, path_of
from r2rt.media.movie import Segment, write_movie
from r2rt.progress import Update

__all__ = ["Reel", "write_reel"]


@dataclass(frozen=True, kw_only=True)
class Reel:
    """A reel that was written: how many parts it joins, and its length in seconds."""

    path: Path
    parts: int
    duration_s: float


def write_reel(
    videos: Sequence[tuple[Video, Sequence[Prediction]]],
    path: StrPath,
    *,
    padding_s: float = 0.0,
    video_tracks: Sequence[int | None] | None = None,
    update: Update | None = None,
) -> Reel:
    """Join the moments of videos into one mp4, encoded once.

    Videos come in the order given, and the moments of each in the order of the video, whichever
    query they answer. Moments that overlap or touch are joined and shown once. All audio tracks
    are kept.

    Args:
        videos: files that were grounded, or their paths, each with its answers.
        path: the mp4 to write.
        padding_s: seconds to add before and after each moment, as far as the video goes.
        video_tracks: which video track of each path, from 1; None takes the default ones.
        update: called with frames done and their total.

    Raises:
        OutputError: there is no moment at all, disk full, no permission; or FFmpeg cannot write it.
        QueryError: a moment lies outside of its video.
        R2rtError: a video cannot be read.
    """
    path = Path(path)
    check_destinations([path], [path_of(video) for video, _ in videos])
    tracks = [None] * len(videos) if video_tracks is None else video_tracks
    found = [
        (
            video if isinstance(video, IndexedVideo) else IndexedVideo(video, video_track=track),
            predictions,
        )
        for (video, predictions), track in zip(videos, tracks, strict=True)
        if any(prediction.moments for prediction in predictions)
    ]
    segments = [part for item in found for part in _segments(*item, padding_s)]
    if not segments:
        raise OutputError(f"{path}: no moment was found, so there is nothing to make a reel of")
    try:
        with replacing(path) as temporary:
            movie = write_movie(temporary, segments, update)
    finally:
        for source, _ in found:  # some may be open still, if one fails
            if not any(source is video for video, _ in videos):  # others go on reading these
                source.close()
    return Reel(path=path, parts=movie.segments, duration_s=float(movie.duration_s))


def _segments(
    source: IndexedVideo, predictions: Sequence[Prediction], padding_s: float
) -> list[Segment]:
    spans = sorted(
        (
            source.span(*padded(moment, padding_s, source.duration_s))
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
    return [Segment(source, span) for span in joined]
