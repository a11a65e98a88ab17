"""Options of `r2rt search` that make clips, images and pages of hits, and their execution."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from r2rt.cli.media import (
    COPY,
    PADDING,
    MediaOptions,
    check_media,
    deliver_media,
    deliver_reel,
    without_idle_defaults,
)
from r2rt.cli.outputs import check_is_text, distinct_labels
from r2rt.cli.session import note, warn
from r2rt.errors import R2rtError
from r2rt.files import check_destinations

if TYPE_CHECKING:
    from r2rt.archive.result import SearchResult
    from r2rt.grounding.prediction import Prediction

__all__ = ["check_hits_media", "deliver_hits_media", "hits_media_options"]

F = TypeVar("F", bound=Callable[..., Any])


def hits_media_options(command: F) -> F:
    """Add `--clips` to `--report`; the command gets them as one `media: MediaOptions`."""

    @functools.wraps(command)
    def with_media(*arguments: Any, **others: Any) -> Any:
        names = ("clips", "copy", "padding_s", "reel", "thumbnails", "contact_sheet", "report")
        media = MediaOptions(**{name: others.pop(name) for name in names})
        return command(*arguments, media=without_idle_defaults(media), **others)

    def path(name: str, help_: str, metavar: str = "FILE") -> Callable[[Any], Any]:
        return click.option(name, type=click.Path(path_type=Path), metavar=metavar, help=help_)

    for option in (
        path("--report", "Write a page of all hits, to watch them in a browser."),
        path("--contact-sheet", "Draw the first 200 hits as a grid of frames, e.g. sheet.png."),
        path("--thumbnails", "Write a JPEG of each hit into this folder.", "FOLDER"),
        path("--reel", "Join all hits, video by video, into one mp4."),
        PADDING,
        COPY,
        path("--clips", "Cut each hit out, exact to the frame, into this folder.", "FOLDER"),
    ):
        with_media = option(with_media)
    return with_media  # type: ignore[return-value]


def check_hits_media(media: MediaOptions, output: str | None, inputs: Sequence[str]) -> None:
    """Check the options before anything costs time; see `check_media`.

    Args:
        media: what to make of hits.
        output: where the hits are written.
        inputs: images and videos that the search begins with; none may be overwritten.
    """
    path = None if output in (None, "-") else Path(str(output))
    check_media(None, media, output=path)
    written = (path, media.reel, media.contact_sheet, media.report)
    check_destinations([path for path in written if path is not None], inputs)
    check_is_text(path)


def deliver_hits_media(found: SearchResult, media: MediaOptions, *, quiet: bool) -> None:
    """Make of the hits what was asked for. A video that cannot be read does not stop the others.

    Raises:
        OutputError: something cannot be written.
        R2rtError: a video breaks off while the reel is made, which comes last.
    """
    if not media.wanted:
        return
    from r2rt.archive.media import predictions_of
    from r2rt.archive.sheet import MOST_IMAGES, write_hits_page, write_hits_sheet
    from r2rt.grounding.many import attempt
    from r2rt.outputs.names import output_stems
    from r2rt.video.remote import plain_path, video_path

    predictions = predictions_of(found)
    of_video = MediaOptions(
        clips=media.clips, copy=media.copy, padding_s=media.padding_s, thumbnails=media.thumbnails
    )
    labels = distinct_labels(output_stems([plain_path(path) for path in predictions]))
    failed: set[str] = set()
    for (path, prediction), label in zip(predictions.items(), labels, strict=True):

        def make(video: str, prediction: Any = prediction, label: str = label) -> None:
            deliver_media(video_path(video), [prediction], of_video, quiet, label=label)

        outcome = attempt(path, make)
        if isinstance(outcome, R2rtError):
            warn(str(outcome))
            failed.add(path)
    if media.contact_sheet is not None:
        write_hits_sheet(found, media.contact_sheet)
        left_out = len(found) - MOST_IMAGES
        some = f" of the first {MOST_IMAGES} hits, without {left_out}" if left_out > 0 else ""
        note(f"{media.contact_sheet}: contact sheet{some}", quiet=quiet)
    if media.report is not None:
        write_hits_page(found, media.report)
        note(f"{media.report}: report", quiet=quiet)
    if media.reel is not None:
        _deliver_reel(predictions, failed, media, quiet)


def _deliver_reel(
    predictions: Mapping[str, Prediction], failed: Collection[str], media: MediaOptions, quiet: bool
) -> None:
    """Join the hits of the videos that can be read; those in `failed` were warned of before."""
    from r2rt.grounding.many import attempt
    from r2rt.media.indexed_video import IndexedVideo
    from r2rt.video.remote import video_path

    videos: list[tuple[IndexedVideo, list[Prediction]]] = []
    with contextlib.ExitStack() as files:

        def add(path: str) -> None:
            video = files.enter_context(IndexedVideo(video_path(path)))
            for moment in predictions[path].moments:
                video.span(moment.start_s, moment.end_s)  # another video may be there now
            videos.append((video, [predictions[path]]))

        for path in predictions:
            outcome = attempt(path, add)
            if isinstance(outcome, R2rtError) and path not in failed:
                warn(str(outcome))
        if videos or not predictions:
            deliver_reel(videos, media, quiet)
        else:
            warn(f"none of the videos can be read, so there is no {media.reel}")
