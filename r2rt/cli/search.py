"""`r2rt search`: find moments in all videos of a library."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from r2rt.cli.console import write_text
from r2rt.cli.hits_media import check_hits_media, deliver_hits_media, hits_media_options
from r2rt.cli.options import (
    format_or_json,
    is_given,
    is_model_named,
    library_model_options,
    quiet_option,
    verbose_option,
)
from r2rt.cli.session import note, open_model, warn_of_unknown_words, warn_of_video
from r2rt.errors import NotInVideoError, QueryError

if TYPE_CHECKING:
    from r2rt.archive.result import SearchResult
    from r2rt.cli.media import MediaOptions
    from r2rt.engines import Device

__all__ = ["search"]

_FORMATS = ("table", "json", "jsonl", "csv", "m3u8", "otio")
_EXAMPLES = """Examples:

\b
  r2rt search library "a dog catches a frisbee" --top 10
  r2rt search library "a dog" --where "date >= '2024' and path like '%beach%'"
  r2rt search library --image photo.jpg
  r2rt search library "at night" --like video.mp4@1:23
  r2rt search library "the goal" --clips goals/ --reel goals.mp4
"""


@click.command(epilog=_EXAMPLES)
@click.argument("library")
@click.argument("query", required=False)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE",
    help="Find what looks like an image; repeatable.",
)
@click.option(
    "--like",
    "likes",
    multiple=True,
    metavar="VIDEO@TIME",
    help="Find what looks like a moment of a video, e.g. talk.mp4@1:23; repeatable.",
)
@click.option(
    "--where",
    metavar="SQL",
    help="Search only the videos that match a condition on their columns: path, date, "
    'duration_s, rate, codec, width, height, size, tags; e.g. "array_has(tags, '
    "'holiday')\".",
)
@click.option(
    "--top", type=click.IntRange(min=1), default=10, show_default=True, help="The most hits."
)
@click.option(
    "--windows",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many windows the grounder looks at; more find more, and take longer.",
)
@click.option("--no-words", is_flag=True, help="Do not search subtitles.")
@click.option(
    "--anyway",
    is_flag=True,
    help="Write hits even of queries that the model says are not in the library.",
)
@click.option(
    "--format",
    "-f",
    "format_",
    type=click.Choice(_FORMATS),
    help="Format of the hits.  [default: by the suffix of --output, else table]",
)
@click.option("--json", "json_", is_flag=True, help="Short for --format json.")
@click.option(
    "--output", "-o", type=click.Path(), help="Write the hits here; - is standard output."
)
@hits_media_options
@library_model_options
@quiet_option
@verbose_option
def search(
    library: str,
    query: str | None,
    images: tuple[str, ...],
    likes: tuple[str, ...],
    where: str | None,
    top: int,
    windows: int,
    no_words: bool,
    anyway: bool,
    format_: str | None,
    json_: bool,
    output: str | None,
    media: MediaOptions,
    model: str | None,
    device: Device,
    quiet: bool,
) -> None:
    """Find the moments in LIBRARY that match QUERY, an image, or another moment.

    The result goes to stdout (or --output), everything else to stderr. The exit code is 3 if the
    query is in none of the videos, as far as the model can say.
    """
    from r2rt.archive.formats import render
    from r2rt.archive.library import Archive
    from r2rt.archive.queries import Like
    from r2rt.archive.tables import Tables

    if query is None and not images and not likes:
        raise QueryError("nothing to search: give a QUERY, --image or --like")
    name = _format_of(format_or_json(format_, json_, means="json"), output)
    moments = [Like.parse(like) for like in likes]
    check_hits_media(media, output, [*images, *(moment.video for moment in moments)])
    tables = Tables.open(library)
    named = is_model_named()
    own = model if named else tables.settings.model
    with open_model(own, device, quiet=quiet, any_form=named) as grounder:
        tables.settings.check_model(grounder.bundle, library)
        if query is not None:
            warn_of_unknown_words(grounder, [query])
        found = Archive(library, model=grounder, tables=tables).search(
            query,
            image=list(images),
            like=moments,
            where=where,
            top=top,
            windows=windows,
            words=not no_words,
        )
    for path, reason in found.skipped.items():
        warn_of_video(path, reason)
    note(_summary(found), quiet=quiet)
    absent = found.present is False and not anyway
    file = None if output in (None, "-") else Path(str(output))
    if not absent or name in ("json", "jsonl"):
        write_text(file, render(name, found, warn_of_video))
    elif file is not None:  # else it would have the hits of an earlier search
        write_text(file, render(name, dataclasses.replace(found, hits=())))
    if not absent:
        deliver_hits_media(found, media, quiet=quiet)
    if absent:
        raise NotInVideoError(
            f"{query!r} is in none of the {found.videos} videos, as far as the model can say; "
            "--anyway shows what comes nearest"
        )
    if not found.hits:
        raise NotInVideoError(f"nothing found in {found.videos} videos")


def _format_of(name: str | None, output: str | None) -> str:
    """Return the format: as the command line says, else by the suffix, else by the defaults."""
    suffix = Path(output or "").suffix.lower()[1:]
    if suffix in _FORMATS and not (is_given("format_") or is_given("json_")):
        return suffix
    return name or "table"


def _summary(found: SearchResult) -> str:
    times = found.timings
    return (
        f"{found.videos} videos, {found.duration_s / 3600:.1f} h; {found.grounded} of "
        f"{found.windows} windows grounded in {times.first_s + times.second_s:.2f} s"
    )
