"""Which videos a command is about, and the loop over them."""

from __future__ import annotations

import functools
import glob
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from r2rt.cli.console import complain, note, progress
from r2rt.cli.spool import spooled
from r2rt.errors import QueryError, R2rtError, SomeVideosFailedError
from r2rt.grounding.many import (
    VIDEO_SUFFIXES,
    answer_each,
    attempt,
    find_videos,
    kind_of,
    matches,
    names_several,
    read_video_list,
)
from r2rt.video.remote import is_remote, shown_address

__all__ = ["Sources", "Videos", "answer_videos", "videos_options"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Videos:
    """What a command is about.

    Attributes:
        paths: every video, in order, each once.
        several: whether the user named several, even if there is only one: by a folder, a glob, a
            list, or more than one name.
        names: what the user called those paths that are copies of pipes, and some others.
    """

    paths: list[str]
    several: bool
    names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """How the user named videos.

    Attributes:
        arguments: what the command line has besides options: videos and queries.
        named: `--video`.
        list_file: `--videos-from`.
        null: whether the names in that file end with NUL.
    """

    arguments: tuple[str, ...]
    named: tuple[str, ...] = ()
    list_file: str | None = None
    null: bool = False

    def split(self, *, queries_given: bool) -> tuple[list[str], list[str]]:
        """Return the arguments that name videos, and the ones that are queries.

        If videos are named by options, all arguments are queries. Otherwise the first argument is a
        video and the others are queries; if queries are given by options too, those others that are
        files, folders or matching globs, or end as videos do, are videos.

        Args:
            queries_given: whether queries are given by options.

        Raises:
            QueryError: an argument could be either, no video is named, or one has an empty name.
        """
        named_elsewhere = bool(self.named or self.list_file)
        videos, queries = _split(
            self.arguments, named_elsewhere=named_elsewhere, queries_given=queries_given
        )
        videos += self.named
        if not videos and self.list_file is None:
            raise QueryError(
                "no video: give a file, a folder, a glob, --video or --videos-from FILE"
            )
        if not all(videos):
            raise QueryError("the name of the video is empty; give a file, a folder or a glob")
        return videos, queries

    def find(self, videos: Sequence[str], *, quiet: bool) -> Videos:
        """Return the videos that arguments and options name; pipes are copied to files.

        Args:
            videos: the arguments that name videos.
            quiet: show no progress.

        Raises:
            QueryError: a list is not text, or a pipe cannot be read.
            SourceNotFoundError: a list, folder or glob leads to no video.
        """
        sources = list(videos)
        if self.list_file is not None:
            if self.list_file == "-" and "-" in sources:
                raise QueryError("-: standard input is a list of videos or a video, not both")
            sources += read_video_list(self.list_file, null=self.null)
        elif self.null:
            raise QueryError("--null is for lists; give --videos-from FILE too")
        spools = spooled(sources, quiet=quiet)
        sources = [path for path, _ in spools]
        several = len(sources) > 1 or self.list_file is not None or names_several(sources[0])
        paths = find_videos(sources) if several else sources
        return Videos(paths=paths, several=several, names=dict(spools))


def videos_options(command: F) -> F:
    """Add `--video`, `--videos-from` and `--null`; the command gets them as `sources`."""

    @functools.wraps(command)
    def with_sources(
        *,
        arguments: tuple[str, ...],
        named_videos: tuple[str, ...],
        videos_from: str | None,
        null: bool,
        **others: Any,
    ) -> Any:
        sources = Sources(arguments=arguments, named=named_videos, list_file=videos_from, null=null)
        return command(sources=sources, **others)

    for option in (
        click.option(
            "--null",
            "-0",
            is_flag=True,
            help="Names in --videos-from end with NUL, as find -print0 writes them.",
        ),
        click.option(
            "--videos-from",
            type=click.Path(allow_dash=True),
            metavar="FILE",
            help="Query the videos that FILE lists, one a line; - is standard input.",
        ),
        click.option(
            "--video",
            "-i",
            "named_videos",
            multiple=True,
            metavar="VIDEO",
            help="Query this video, folder or glob; repeatable. All arguments are then queries.",
        ),
    ):
        with_sources = option(with_sources)
    return with_sources  # type: ignore[return-value]


def answer_videos(
    videos: Videos,
    waiting: Sequence[str],
    answer: Callable[[str], T],
    deliver: Callable[[str, T], None],
    failed: Callable[[str, R2rtError], None],
    *,
    jobs: int,
    quiet: bool,
) -> None:
    """Answer one video after another; an error of one is printed and does not stop the others.

    Args:
        videos: what the command is about.
        waiting: those of them that are to be answered.
        answer: returns the answer about a video; called in threads.
        deliver: writes an answer; called in the order of the videos.
        failed: called for a video that failed, if there are several.
        jobs: how many videos are answered at the same time.
        quiet: print no notes.

    Raises:
        SomeVideosFailedError: some of several videos failed. The others have been delivered.
        R2rtError: the only video failed, or nothing can be written.
    """
    if not videos.several:
        for video in waiting:
            deliver(video, answer(video))
        return
    failures = 0
    with progress("videos", total=len(waiting), unit="videos", quiet=quiet) as update:
        for number, (video, result) in enumerate(answer_each(waiting, answer, jobs=jobs), start=1):
            outcome: R2rtError | None
            if isinstance(result, R2rtError):
                outcome = result
            else:
                outcome = attempt(video, functools.partial(_deliver, deliver, result))
            if outcome is not None:
                failures += 1
                _report(video, outcome)
                failed(video, outcome)
            update(number, len(waiting))
    note(f"{len(waiting) - failures} of {len(waiting)} videos answered", quiet=quiet)
    if failures:
        raise SomeVideosFailedError(f"{failures} of {len(waiting)} videos failed, see above")


def _deliver(deliver: Callable[[str, T], None], result: T, video: str) -> None:
    deliver(video, result)


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
            raise QueryError(f"{first[0]!r} is not a file and {text} is one; name the video first")
        if kind_of(text) == "file":
            raise QueryError(
                f"{text} is a file, not a query; to query several videos, give queries by -q: "
                "VIDEO... -q SENTENCE"
            )
    return first, list(rest)


def _is_source(text: str) -> bool:
    return (
        is_remote(text)
        or kind_of(text) is not None
        or Path(text).suffix.lower() in VIDEO_SUFFIXES
        or (glob.has_magic(text) and bool(matches(text)))
    )


def _report(video: str, error: R2rtError) -> None:
    message, name = str(error), shown_address(video)
    complain(f"error: {message if name in message else f'{name}: {message}'}")
    if os.environ.get("R2RT_DEBUG") and error.__cause__ is not None:
        traceback.print_exception(error)
