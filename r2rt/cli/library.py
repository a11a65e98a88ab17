"""`r2rt library`: show, check and compact a library, remove videos from it."""

from __future__ import annotations

import click

from r2rt.cli.console import print_table, write_text
from r2rt.cli.options import quiet_option
from r2rt.cli.session import note, warn
from r2rt.errors import LibraryError, QueryError

__all__ = ["library"]


@click.group()
def library() -> None:
    """Show, check and compact a library that `r2rt index` made, and remove videos from it."""


@library.command()
@click.argument("library_")
@click.option("--json", "json_", is_flag=True, help="Write it as JSON.")
def info(library_: str, json_: bool) -> None:
    """Show what LIBRARY holds, what it takes, and which videos failed and why."""
    import msgspec

    from r2rt.archive.maintenance import info_of
    from r2rt.archive.tables import Tables
    from r2rt.video.remote import shown_address

    found = info_of(Tables.open(library_))
    if json_:
        write_text(None, msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n")
        return
    rows = [
        ("model", f"{found.model} ({found.model_fingerprint[:8]})"),
        ("videos", str(found.videos)),
        ("hours", f"{found.duration_s / 3600:.2f}"),
        ("clips", str(found.clips)),
        ("with tokens", str(found.with_tokens)),
        ("gone", str(found.missing)),
        ("failed", str(len(found.failed))),
    ]
    if found.size_bytes is not None:
        sizes = {"on disk": found.size_bytes, **(found.table_bytes or {})}
        rows += [(name, f"{size / 1e6:.1f} MB") for name, size in sizes.items()]
    rows += [
        ("failed", f"{shown_address(path)}: {reason}") for path, reason in found.failed.items()
    ]
    print_table(("", ""), rows)


@library.command()
@click.argument("library_")
@quiet_option
def check(library_: str, quiet: bool) -> None:
    """Compare the tables of LIBRARY with each other, and read all of their rows.

    Rows without a video, which killed processes leave, are harmless, and `compact` removes them.
    """
    from r2rt.archive.maintenance import check_tables
    from r2rt.archive.tables import Tables

    found = check_tables(Tables.open(library_))
    note(f"{library_}: {found.videos} videos, {found.leftover} rows without a video", quiet=quiet)
    for fault in found.faults:
        warn(fault)
    if found.faults:
        raise LibraryError(
            f"{library_}: {len(found.faults)} faults, see above; remove these videos with "
            "`r2rt library remove`, and index them again"
        )


@library.command()
@click.argument("library_")
@quiet_option
def compact(library_: str, quiet: bool) -> None:
    """Remove what LIBRARY needs no more, join small files, and complete the indices."""
    from r2rt.archive.maintenance import compact_tables
    from r2rt.archive.tables import Tables

    tables = Tables.open(library_)
    before = tables.size_bytes()
    removed = compact_tables(tables)
    after = tables.size_bytes()
    sizes = ""
    if before is not None and after is not None:
        sizes = f", {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB now"
    note(f"{library_}: {removed} rows removed{sizes}", quiet=quiet)


@library.command()
@click.argument("library_")
@click.argument("videos", nargs=-1, metavar="VIDEO...")
@click.option("--where", metavar="SQL", help="Also remove all videos that fit a condition.")
@quiet_option
def remove(library_: str, videos: tuple[str, ...], where: str | None, quiet: bool) -> None:
    """Remove each VIDEO from LIBRARY, and what was kept of it; the files themselves stay."""
    from r2rt.archive.maintenance import remove_videos
    from r2rt.archive.tables import Tables

    if not videos and where is None:
        raise QueryError("nothing to remove: give videos, or --where")
    count = remove_videos(Tables.open(library_), videos, where)
    note(f"{library_}: {count} videos removed; `r2rt library compact` frees the space", quiet=quiet)
