"""Options that make clips, images and pages of moments, and their execution."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from r2rt.cli.console import progress
from r2rt.cli.options import TIME, is_given
from r2rt.cli.session import note, warn
from r2rt.errors import QueryError
from r2rt.files import check_destinations, check_folder

if TYPE_CHECKING:
    from r2rt.grounding.prediction import Prediction
    from r2rt.media import Cut
    from r2rt.media.indexed_video import IndexedVideo, Video
    from r2rt.video.remote import VideoPath

__all__ = [
    "COPY",
    "PADDING",
    "MediaOptions",
    "best_of",
    "check_media",
    "check_reel",
    "deliver_media",
    "deliver_reel",
    "media_options",
    "media_paths",
    "media_places",
    "without_idle_defaults",
]

F = TypeVar("F", bound=Callable[..., Any])

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


PADDING = click.option(
    "--padding",
    "padding_s",
    type=TIME,
    default="0",
    help="Begin clips and parts of the reel so much earlier, and end them later.",
)
COPY = click.option(
    "--copy",
    is_flag=True,
    help="Copy clips without encoding them again: fast and lossless, but a clip begins at the "
    "keyframe before its moment.",
)


@dataclass(frozen=True, kw_only=True)
class MediaOptions:
    """What to make of moments; None and False make nothing."""

    clips: Path | None = None
    copy: bool = False
    padding_s: float = 0.0
    reel: Path | None = None
    thumbnails: Path | None = None
    contact_sheet: Path | None = None
    plot: Path | None = None
    report: Path | None = None

    @property
    def wanted(self) -> bool:
        """Whether anything is to be made."""
        return any((self.needs_video, self.plot, self.report))

    @property
    def needs_video(self) -> tuple[str, ...]:
        """The options given that cannot do without the video itself."""
        given = {
            "--clips": self.clips,
            "--reel": self.reel,
            "--thumbnails": self.thumbnails,
            "--contact-sheet": self.contact_sheet,
        }
        return tuple(option for option, path in given.items() if path is not None)


def media_options(command: F) -> F:
    """Add `--clips` to `--report`; the command gets them as one `media: MediaOptions`."""

    @functools.wraps(command)
    def with_media(
        *arguments: Any,
        clips: Path | None,
        copy: bool,
        padding_s: float,
        reel: Path | None,
        thumbnails: Path | None,
        contact_sheet: Path | None,
        plot: Path | None,
        report: Path | None,
        **others: Any,
    ) -> Any:
        media = MediaOptions(
            clips=clips,
            copy=copy,
            padding_s=padding_s,
            reel=reel,
            thumbnails=thumbnails,
            contact_sheet=contact_sheet,
            plot=plot,
            report=report,
        )
        return command(*arguments, media=without_idle_defaults(media), **others)

    # Applied from the inside out, so the last one here is the first one in the help.
    for option in (
        _path("--report", "Write a page of it all, to watch the moments in a browser."),
        _path("--plot", "Draw saliency and moments over time, e.g. timeline.png."),
        _path("--contact-sheet", "Draw the moments as a grid of frames, e.g. sheet.png."),
        _path("--thumbnails", "Write a JPEG of each moment into this folder.", "FOLDER"),
        _path("--reel", "Join the moments, in the video's order, into one mp4."),
        PADDING,
        COPY,
        _path("--clips", "Cut each moment out, exact to the frame, into this folder.", "FOLDER"),
    ):
        with_media = option(with_media)
    return with_media  # type: ignore[return-value]


def without_idle_defaults(options: MediaOptions) -> MediaOptions:
    """Return the options without a --copy or --padding of the user's file that has no use here."""
    copy, padding_s = options.copy, options.padding_s
    if options.clips is None and not is_given("copy"):
        copy = False
    if options.clips is None and options.reel is None and not is_given("padding_s"):
        padding_s = 0.0
    return dataclasses.replace(options, copy=copy, padding_s=padding_s)


def check_media(
    video: VideoPath | None,
    options: MediaOptions,
    *,
    output: Path | None = None,
    folder: Path | None = None,
) -> None:
    """Check options before anything costs time.

    Args:
        video: what was asked, or None where that is not known yet.
        options: what to make of it.
        output: where the answers are written, if that is one file.
        folder: where they are written, if that is a folder; it is made.

    Raises:
        QueryError: options that make no sense, two outputs of one name, or options that a folder of
            images cannot serve.
        OutputError: a file or folder cannot be written there, or is the video itself.
        MissingExtraError: images are wanted and Pillow is not installed.
    """
    if options.copy and options.clips is None:
        raise QueryError("--copy says how to cut clips; give --clips FOLDER too")
    if options.padding_s and options.clips is None and options.reel is None:
        raise QueryError("--padding is for clips and reels; give --clips or --reel too")
    _check_ending("--reel", options.reel, (".mp4",))
    _check_ending("--contact-sheet", options.contact_sheet, _PICTURES)
    _check_ending("--plot", options.plot, _PICTURES)
    _check_ending("--report", options.report, (".html", ".htm"))
    files = {
        "--output": output,
        "--reel": options.reel,
        "--contact-sheet": options.contact_sheet,
        "--plot": options.plot,
        "--report": options.report,
    }
    named: dict[str, str] = {}
    for option, path in files.items():
        if path is not None:
            first = named.setdefault(os.path.realpath(path), option)
            if first != option:
                raise QueryError(f"{first} and {option} are both {path}; give each its own name")
            check_destinations(
                [path], [] if video is None else [video], made=[] if folder is None else [folder]
            )
    for target in (options.clips, options.thumbnails):
        if target is not None:
            check_folder(target)
    if any((options.thumbnails, options.contact_sheet, options.plot, options.report)):
        from r2rt.media.drawing import require_pillow

        require_pillow()
    if options.report is not None:
        from r2rt.media.drawing import require_jinja

        require_jinja()
    if video is not None and options.needs_video and video.is_dir():
        raise _no_video(video, options)


def check_reel(options: MediaOptions, *, skips: bool) -> None:
    """Check that a reel will have the moments of all videos.

    Args:
        options: what to make.
        skips: whether videos that were answered before are left out.

    Raises:
        QueryError: it would replace the reel of all by one of some.
    """
    if skips and options.reel is not None:
        raise QueryError("--reel joins moments of all videos; leave --skip-existing out")


def media_places(video: VideoPath, options: MediaOptions, label: str | None) -> dict[str, Path]:
    """Return, by option, the file that is made of a video, or how its files in a folder begin.

    The reel is not among them: it may be of several videos.
    """
    from r2rt.media.names import moment_stem

    pages = {
        "--contact-sheet": options.contact_sheet,
        "--plot": options.plot,
        "--report": options.report,
    }
    folders = {"--clips": options.clips, "--thumbnails": options.thumbnails}
    begin = f"{moment_stem(label or video.stem)}."
    places = {name: _labelled(path, label) for name, path in pages.items() if path is not None}
    return places | {name: path / begin for name, path in folders.items() if path is not None}


def media_paths(video: VideoPath, options: MediaOptions, label: str | None) -> list[Path]:
    """Return the files that are there once `deliver_media` has made what was asked of a video.

    The names in a folder depend on the moments, and either all are written or none: so the newest
    file of this video is returned, or a path that does not exist.
    """
    paths = []
    for option, place in media_places(video, options, label).items():
        if option in ("--clips", "--thumbnails"):
            there = place.parent.iterdir() if place.parent.is_dir() else ()
            made = [path for path in there if path.name.startswith(place.name)]
            age = {path: path.stat().st_mtime_ns for path in made}
            paths.append(max(made, key=age.__getitem__, default=place))
        else:
            paths.append(place)
    return paths


def best_of(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return predictions with the moments that are worth exporting."""
    from r2rt.selection.worthwhile import worthwhile

    return [worthwhile(prediction) for prediction in predictions]


def deliver_media(
    video_path: VideoPath,
    predictions: Sequence[Prediction],
    options: MediaOptions,
    quiet: bool,
    *,
    label: str | None = None,
    video_track: int | None = None,
) -> None:
    """Make of one video's moments what was asked for, under progress bars.

    Args:
        video_path: the file that was grounded, or a video at an address. Where it is no file, or
            none any more, timeline and report go without its frames.
        predictions: what it was asked, at least one.
        options: what to make.
        quiet: show no progress and no notes.
        label: given where there are several videos: part of their files' names; leaves the reel
            to `deliver_reel`.
        video_track: which video track was read, from 1; None is the default one.

    Raises:
        QueryError: the video itself is needed and is not there.
        OutputError: something cannot be written.
        R2rtError: the video cannot be read.
    """
    if not options.wanted:
        return
    # Of one at an address, reading it says what is wrong.
    if not isinstance(video_path, Path) or video_path.is_file():
        from r2rt.media.indexed_video import IndexedVideo

        with IndexedVideo(video_path, video_track=video_track) as source:
            _deliver_clips(source, predictions, options, quiet, label)
            if label is None:
                deliver_reel([(source, predictions)], options, quiet)
            _deliver_thumbnails(source, predictions, options, quiet, label)
            _deliver_pages(source, predictions, options, quiet, label)
    elif options.needs_video:
        raise _no_video(video_path, options)
    else:
        warn(f"{video_path} is not a video file here: plot and report have no frames of it")
        _deliver_pages(None, predictions, options, quiet, label)


def deliver_reel(
    videos: Sequence[tuple[Video, Sequence[Prediction]]],
    options: MediaOptions,
    quiet: bool,
    *,
    video_tracks: Sequence[int | None] | None = None,
) -> None:
    """Join the moments of all videos into the reel, where one is asked for; see `write_reel`."""
    if options.reel is None:
        return
    if not any(prediction.moments for _, predictions in videos for prediction in predictions):
        warn(f"no moment was found, so there is no {options.reel}")
        return
    from r2rt.media import write_reel

    with progress("joining", unit="frames", quiet=quiet) as update:
        reel = write_reel(
            videos,
            options.reel,
            padding_s=options.padding_s,
            video_tracks=video_tracks,
            update=update,
        )
    parts = f"{reel.parts} part" + ("s" if reel.parts > 1 else "")
    note(f"{reel.path}: {parts}, {reel.duration_s:.2f} s", quiet=quiet)


def _deliver_clips(
    video: IndexedVideo,
    predictions: Sequence[Prediction],
    options: MediaOptions,
    quiet: bool,
    label: str | None,
) -> None:
    if options.clips is None:
        return
    from r2rt.media import cut_clips

    with progress("cutting", unit="clips", quiet=quiet) as update:
        cuts = cut_clips(
            video,
            predictions,
            options.clips,
            label=label,
            copy=options.copy,
            padding_s=options.padding_s,
            update=update,
        )
    if options.copy:
        for cut in cuts:
            note(f"{cut.path.name}: {_off(cut)}", quiet=quiet)
    note(f"{options.clips}: {len(cuts)} clip" + ("" if len(cuts) == 1 else "s"), quiet=quiet)


def _deliver_thumbnails(
    video: IndexedVideo,
    predictions: Sequence[Prediction],
    options: MediaOptions,
    quiet: bool,
    label: str | None,
) -> None:
    if options.thumbnails is not None:
        from r2rt.media import write_thumbnails

        with progress("thumbnails", unit="frames", quiet=quiet) as update:
            paths = write_thumbnails(
                video, predictions, options.thumbnails, label=label, update=update
            )
        plural = "" if len(paths) == 1 else "s"
        note(f"{options.thumbnails}: {len(paths)} thumbnail{plural}", quiet=quiet)
    if options.contact_sheet is not None:
        from r2rt.media import write_contact_sheet

        path = _labelled(options.contact_sheet, label)
        with progress("contact sheet", unit="frames", quiet=quiet) as update:
            write_contact_sheet(video, predictions, path, update=update)
        note(f"{path}: contact sheet", quiet=quiet)


def _deliver_pages(
    video: IndexedVideo | None,
    predictions: Sequence[Prediction],
    options: MediaOptions,
    quiet: bool,
    label: str | None,
) -> None:
    if options.plot is not None:
        from r2rt.media import write_plot

        path = _labelled(options.plot, label)
        with progress("timeline", unit="frames", quiet=quiet) as update:
            write_plot(video, predictions, path, update=update)
        note(f"{path}: timeline", quiet=quiet)
    if options.report is not None:
        from r2rt.media import write_report

        path = _labelled(options.report, label)
        with progress("report", unit="frames", quiet=quiet) as update:
            write_report(video, predictions, path, update=update)
        note(f"{path}: report", quiet=quiet)


def _path(name: str, help_: str, metavar: str = "FILE") -> Callable[[Any], Any]:
    return click.option(name, type=click.Path(path_type=Path), metavar=metavar, help=help_)


def _check_ending(option: str, path: Path | None, endings: Sequence[str]) -> None:
    if path is not None and path.suffix.lower() not in endings:
        raise QueryError(f"{option} {path}: expected a name that ends in {' or '.join(endings)}")


def _labelled(path: Path, label: str | None) -> Path:
    """Return `sheet.LABEL.png` for `sheet.png`, where there are several videos."""
    if label is None:
        return path
    from r2rt.media.names import slug

    return path.with_name(f"{path.stem}.{slug(label, empty='video')}{path.suffix}")


def _off(cut: Cut) -> str:
    return f"starts {_gap(cut.start_off_s)}, ends {_gap(cut.end_off_s)}"


def _gap(off_s: float) -> str:
    if abs(off_s) < 0.0005:
        return "where asked"
    return f"{abs(off_s):.3f} s {'late' if off_s > 0 else 'early'}"


def _no_video(path: VideoPath, options: MediaOptions) -> QueryError:
    return QueryError(
        f"{', '.join(options.needs_video)}: {path} is not a video file here; put it there, "
        "or name the video in place of an encoding or images"
    )
