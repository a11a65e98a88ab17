"""Which videos a command is about, and the way through many of them."""

from __future__ import annotations

import contextlib
import glob
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from r2rt.cli.console import printable, stderr_console
from r2rt.cli.outputs import Delivery, OutputOptions
from r2rt.cli.session import note
from r2rt.errors import QueryError, R2rtError, SomeVideosFailedError
from r2rt.grounding.many import (
    VIDEO_SUFFIXES,
    answer_each,
    find_videos,
    kind_of,
    matches,
    names_several,
    read_video_list,
)

__all__ = ["Videos", "answer_videos", "choose_videos", "videos_options"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Videos:
    """What a command is about.

    Attributes:
        paths: every video, in order, each once.
        several: whether the user named several, even if that came to one: by a folder, a glob, a
            list, or more than one name.
    """

    paths: list[str]
    several: bool

    def label(self, video: str, doing: str) -> str:
        """Return what a progress bar says: `encoding 3/10 holiday.mp4`, or only what is done."""
        if not self.several:
            return doing
        place = self.paths.index(video) + 1
        return f"{doing} {place}/{len(self.paths)} {printable(Path(video).name)}"


def videos_options(command: F) -> F:
    """Add `--video` and `--videos-from`, which name videos in place of arguments."""
    command = click.option(
        "--videos-from",
        type=click.Path(allow_dash=True),
        help="Ask the videos that this file names, one a line; - is standard input.",
    )(command)
    return click.option(
        "--video",
        "-v",
        "named_videos",
        multiple=True,
        help="Ask this video, folder or glob; repeatable. Then all arguments are queries.",
    )(command)


def choose_videos(
    arguments: Sequence[str],
    *,
    named: Sequence[str] = (),
    list_file: str | None = None,
    queries_given: bool = False,
) -> tuple[Videos, list[str]]:
    """Tell videos from queries, and find the videos.

    Where videos are named by options, all arguments are queries. Else the first is a video and the
    others are queries; if queries are given by options too, those others are videos that are
    files, folders, globs that fit, or end as videos do.

    Args:
        arguments: what the command line has besides options.
        named: `--video`.
        list_file: `--videos-from`.
        queries_given: whether queries are given by options.

    Returns:
        The videos, and the arguments that are queries.

    Raises:
        QueryError: no video, or an argument that could be either.
        SourceNotFoundError: a list, folder or glob leads to no video.
    """
    sources, queries = _split(
        arguments, named_elsewhere=bool(named or list_file), queries_given=queries_given
    )
    sources += named
    if list_file is not None:
        sources += read_video_list(list_file)
    if not sources:
        raise QueryError("no video: give a file, a folder, a glob, --video or --videos-from FILE")
    several = len(sources) > 1 or list_file is not None or names_several(sources[0])
    paths = find_videos(sources) if several else sources
    return Videos(paths=paths, several=several), queries


def answer_videos(
    videos: Videos,
    waiting: Sequence[str],
    delivery: Delivery,
    outputs: OutputOptions,
    answer: Callable[[str], None],
    *,
    then: Callable[[], None] | None = None,
    quiet: bool,
) -> None:
    """Have one video after another answered; that one fails is told and stops no other.

    Args:
        videos: what the command is about.
        waiting: those of them that are to be answered; see `Delivery.waiting`.
        delivery: where `answer` hands its answers; it is finished here.
        outputs: options of `delivery`.
        answer: answers about one video and delivers.
        then: is called once after several videos, if only some failed too.
        quiet: write no notes.

    Raises:
        SomeVideosFailedError: of several videos some failed. All else has been delivered.
        R2rtError: the only video failed, or nothing can be written.
    """
    failed = 0
    with _finished(delivery):
        if not videos.several:
            for video in waiting:
                answer(video)
            return
        for video, result in answer_each(waiting, answer):
            if isinstance(result, R2rtError):
                failed += 1
                _tell(video, result)
                delivery.add(outputs.answers(video, error=result))
    if then is not None:
        then()
    note(f"{len(waiting) - failed} of {len(waiting)} videos answered", quiet=quiet)
    if failed:
        raise SomeVideosFailedError(f"{failed} of {len(waiting)} videos failed, as told above")


@contextlib.contextmanager
def _finished(delivery: Delivery) -> Iterator[None]:
    """Write what was answered, also where something else then failed, such as a clip."""
    try:
        yield
    except R2rtError:
        delivery.finish()
        raise
    delivery.finish()


def _split(
    arguments: Sequence[str], *, named_elsewhere: bool, queries_given: bool
) -> tuple[list[str], list[str]]:
    if named_elsewhere:
        for text in arguments:
            if kind_of(text) == "file":
                raise QueryError(f"{text} is a file, not a query; name it by --video {text}")
        return [], list(arguments)
    first, rest = list(arguments[:1]), arguments[1:]
    if queries_given:
        more = [text for text in rest if _is_source(text)]
        return first + more, [text for text in rest if not _is_source(text)]
    for text in rest:
        if kind_of(text) == "file" and kind_of(first[0]) is None and len(rest) == 1:
            raise QueryError(f"{first[0]!r} is no file and {text} is one; name the video first")
        if kind_of(text) == "file":
            raise QueryError(
                f"{text} is a file, not a query; to ask several videos, give queries by -q: "
                "VIDEO... -q SENTENCE"
            )
    return first, list(rest)


def _is_source(text: str) -> bool:
    return (
        kind_of(text) is not None
        or Path(text).suffix.lower() in VIDEO_SUFFIXES
        or (glob.has_magic(text) and bool(matches(text)))
    )


def _tell(video: str, error: R2rtError) -> None:
    message = str(error)
    text = message if video in message else f"{video}: {message}"
    stderr_console().print(f"r2rt: error: {text}", markup=False, highlight=False, soft_wrap=True)
    if os.environ.get("R2RT_DEBUG") and error.__cause__ is not None:
        traceback.print_exception(error)
