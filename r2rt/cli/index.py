"""`r2rt index`: add videos to a library, and keep it up to date."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

import click

from r2rt.cli.console import progress
from r2rt.cli.options import (
    check_has_use,
    is_model_named,
    library_model_options,
    quiet_option,
    verbose_option,
)
from r2rt.cli.session import note, open_model, warn_of_video
from r2rt.errors import QueryError, SomeVideosFailedError
from r2rt.grounding.many import kind_of
from r2rt.memory import parse_bytes

if TYPE_CHECKING:
    from r2rt.archive.library import Archive
    from r2rt.archive.piece import Keep
    from r2rt.archive.writer import IndexReport
    from r2rt.engines import Device
    from r2rt.video import Sampling

__all__ = ["index"]

# Changes that follow one another within this time are indexed together.
_SETTLED_MS = 3000
_POLL_MS = 500
_EXAMPLES = """Examples:

\b
  r2rt index library videos/ more/*.mp4
  r2rt index library videos/ --tag holiday --watch
  r2rt search library "a dog catches a frisbee"
"""


@click.command(epilog=_EXAMPLES)
@click.argument("library")
@click.argument("videos", nargs=-1, metavar="VIDEO...")
@click.option(
    "--videos-from",
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help="Index the videos that FILE lists, one a line; - is standard input.",
)
@click.option(
    "--keep",
    type=click.Choice(["tokens", "vectors"]),
    default="tokens",
    show_default=True,
    help="What to keep of a video: vectors alone take less space, but searches encode the best "
    "windows again.",
)
@click.option(
    "--sampling",
    type=click.Choice(["exact", "nearest"]),
    default="nearest",
    show_default=True,
    help="Decode the exact frame of each clip, or the cheapest one near it.",
)
@click.option("--tag", "tags", multiple=True, help="A word for --where of searches; repeatable.")
@click.option("--retry", is_flag=True, help="Retry videos that failed before.")
@click.option("--quota", metavar="SIZE", help="The most that the library may take, e.g. 40G.")
@click.option(
    "--speech",
    metavar="MODEL",
    help="Transcribe videos without subtitles by faster-whisper; MODEL is a folder of its weights, "
    "or a name such as small, which is fetched.",
)
@click.option(
    "--ray",
    metavar="ADDRESS|local",
    help="Encode by workers of Ray, on a cluster or on this machine.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Workers of --ray."
)
@click.option("--watch", is_flag=True, help="Go on, and index what appears or changes.")
@library_model_options
@quiet_option
@verbose_option
def index(
    library: str,
    videos: tuple[str, ...],
    videos_from: str | None,
    keep: Keep,
    sampling: Sampling,
    tags: tuple[str, ...],
    retry: bool,
    quota: str | None,
    speech: str | None,
    ray: str | None,
    workers: int,
    watch: bool,
    model: str | None,
    device: Device,
    quiet: bool,
) -> None:
    """Add each VIDEO to LIBRARY, a folder that is made if it is not there.

    VIDEO is a file, a folder, a glob, or an address such as https://… or s3://bucket/folder/ (extra
    [remote]). Files that have not changed are left as they are, moved ones are found again, and
    ones that are gone are not searched any more, so the same command brings a library up to date.
    It can be stopped and started again at any time, and several may run at once. A video that fails
    is recorded with its reason, and tried again when it changes.
    """
    from r2rt.archive.library import Archive
    from r2rt.archive.tables import Tables
    from r2rt.grounding.many import read_video_list

    check_has_use("workers", "--ray", given=ray is not None)
    quota_bytes = None if quota is None else parse_bytes(quota, what="--quota")
    sources = [*videos, *(read_video_list(videos_from) if videos_from is not None else ())]
    if not sources:
        raise QueryError("no video: give files, folders, globs, or --videos-from FILE")
    folders = _followed(sources) if watch else []
    tables = Tables.find(library)
    is_new = is_model_named() or tables is None
    if tables is not None and not is_new:
        model = tables.settings.model
    with (
        open_model(model, device, quiet=quiet, any_form=is_new) as grounder,
        _interrupted() as interrupted,
    ):
        archive = Archive(library, model=grounder, device=device, tables=tables)

        def add() -> IndexReport:
            with progress("indexing", unit="B", quiet=quiet) as update:
                report = archive.add(
                    sources,
                    tags=tags,
                    keep=keep,
                    sampling=sampling,
                    retry=retry,
                    follow=watch,
                    quota_bytes=quota_bytes,
                    speech=speech,
                    ray=ray,
                    workers=workers,
                    update=update,
                    failed=warn_of_video,
                )
            if interrupted.is_set():
                raise KeyboardInterrupt
            return report

        changes: Iterator[bool] = _changes(folders, interrupted) if watch else iter(())
        next(changes, None)  # from here on no change is missed
        report = add()
        note(_summary(archive, report), quiet=quiet)
        if watch:
            note(f"following {', '.join(folders)}; press Ctrl-C to stop", quiet=quiet)
            for has_changed in changes:
                if has_changed:
                    note(_summary(archive, add()), quiet=quiet)
            raise KeyboardInterrupt
    if report.failed:
        raise SomeVideosFailedError(
            f"{len(report.failed)} videos could not be indexed, see above; "
            f"r2rt library info {library} lists those that are there"
        )


def _summary(archive: Archive, report: IndexReport) -> str:
    counts = {
        "added": report.added,
        "changed": report.changed,
        "moved": report.moved,
        "copied": report.copied,
        "gone": report.removed,
        "failed": len(report.failed),
        "failed before": report.failed_before,
        "in work by others": report.busy,
        "unchanged": report.unchanged,
    }
    listed = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    work = f"{report.clips} clips in {report.seconds:.1f} s"
    return f"{archive.path}: {listed or 'nothing to do'}; {work}"


@contextlib.contextmanager
def _interrupted() -> Iterator[threading.Event]:
    """Give an event that is set by Ctrl-C, since a library may lose the exception that it raises.

    An exception that a signal raises while Rust calls Python can end there.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        event.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _followed(sources: Sequence[str]) -> list[str]:
    """Return the folders that `--watch` follows.

    Raises:
        QueryError: there is none.
        MissingExtraError: watchfiles is not installed.
    """
    from r2rt.archive.tables import require_package

    require_package("watchfiles", "--watch")
    folders = [source for source in sources if kind_of(source) == "folder"]
    if not folders:
        raise QueryError("--watch follows folders; name one")
    return folders


def _changes(folders: Sequence[str], interrupted: threading.Event) -> Iterator[bool]:
    """Yield whether something below the folders has changed, every half a second or so.

    Watching begins with the first `next`. A file that is still being written fails or is
    incomplete; its next change brings it again.
    """
    from watchfiles import watch

    for found in watch(
        *folders,
        debounce=_SETTLED_MS,
        step=_POLL_MS,
        rust_timeout=_POLL_MS,
        yield_on_timeout=True,
        stop_event=interrupted,
    ):
        yield bool(found)
