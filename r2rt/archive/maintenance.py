"""What a library holds, whether it is whole, and how it is shortened."""

from __future__ import annotations

import datetime
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from r2rt.archive.indices import OLD, update_indices
from r2rt.archive.scan import FAILED, MISSING, READY
from r2rt.archive.tables import Table, Tables, damaged, folder_bytes, quoted, write_lock
from r2rt.errors import QueryError
from r2rt.video.remote import is_remote, shown_address

__all__ = ["Check", "Info", "check_tables", "compact_tables", "info_of", "remove_videos"]

_AT_ONCE = 500  # ids in one condition
_ROWS_AT_ONCE = 256  # of tokens, 250 KB each


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """What a library holds.

    Attributes:
        model: name or folder of its model.
        model_fingerprint: `Bundle.fingerprint` of it.
        videos: files that can be searched.
        duration_s: how long they are together; a copy counts.
        clips: of all videos; a copy does not count.
        with_tokens: files whose rows of both stages are kept.
        missing: files that are gone.
        failed: why files could not be indexed, by path.
        size_bytes: on disk; None for a library at an address, which is not asked.
        table_bytes: likewise, a table.
    """

    model: str
    model_fingerprint: str
    videos: int
    duration_s: float
    clips: int
    with_tokens: int
    missing: int
    failed: dict[str, str]
    size_bytes: int | None
    table_bytes: dict[str, int] | None


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a library is whole.

    Attributes:
        videos: that can be searched.
        leftover: rows that belong to no video.
        faults: videos whose rows are missing or doubled, each in one line.
    """

    videos: int
    leftover: int
    faults: list[str]


def info_of(tables: Tables) -> Info:
    """Return what a library holds."""
    columns = ["path", "entry", "state", "error", "duration_s", "clips", "keep"]
    rows = tables.videos.rows(columns).to_pylist()
    ready = [row for row in rows if row["state"] == READY]
    return Info(
        model=tables.settings.model,
        model_fingerprint=tables.settings.model_fingerprint,
        videos=len(ready),
        duration_s=sum(row["duration_s"] for row in ready),
        clips=sum({row["entry"]: row["clips"] for row in ready}.values()),
        with_tokens=sum(row["keep"] == "tokens" for row in ready),
        missing=sum(row["state"] == MISSING for row in rows),
        failed={row["path"]: row["error"] for row in rows if row["state"] == FAILED},
        size_bytes=tables.size_bytes(),
        table_bytes=None
        if is_remote(tables.root)
        else {name: folder_bytes(table.uri) for name, table in tables.all()},
    )


def check_tables(tables: Tables) -> Check:
    """Read all rows, and compare those of every video with what its row in `videos` says.

    Raises:
        LibraryError: a table cannot be read.
    """
    rows = tables.videos.rows(["path", "entry", "words", "state", "clips", "keep"]).to_pylist()
    pool = tables.settings.clips_per_vector
    vectors = _numbers(tables.clips, "entry", "row", "vector")
    tokens = _numbers(tables.tokens, "entry", "first", "data")
    lines = _numbers(tables.subtitles, "words", "start_s", "text")
    faults = []
    for row in rows:
        name = shown_address(row["path"])
        if not (entry := row["entry"]):
            faults += [f"{name}: ready without clips"] if row["state"] == READY else []
            continue
        expected = list(range(-(-row["clips"] // pool)))
        found = sorted(vectors.get(entry, []))
        if found != expected:
            faults.append(f"{name}: {len(found)} vectors of {len(expected)}")
        if row["keep"] == "tokens":
            firsts = sorted(tokens.get(entry, []))
            if not firsts or len(set(firsts)) != len(firsts) or firsts[0] != 0:
                faults.append(f"{name}: tokens are missing or doubled")
        if row["words"] and row["words"] not in lines:
            faults.append(f"{name}: subtitles are missing")
    paths = Counter(row["path"] for row in rows)
    faults += [f"{shown_address(path)}: {count} rows" for path, count in paths.items() if count > 1]
    wanted = {row[column] for row in rows for column in ("entry", "words")}
    leftover = sum(
        len(numbers)
        for found in (vectors, tokens, lines)
        for entry, numbers in found.items()
        if entry not in wanted
    )
    videos = sum(row["state"] == READY for row in rows)
    return Check(videos=videos, leftover=leftover, faults=faults)


def compact_tables(tables: Tables) -> int:
    """Remove rows that no video needs, join small files, and complete the indices.

    Nobody can commit meanwhile; searches go on. A library at an address has no lock: there, what
    was written in the last ten minutes stays, since the rows of `videos` that need it may be about
    to follow.

    Returns:
        How many rows were removed.

    Raises:
        LibraryError: a table cannot be read.
        OutputError: the library cannot be written.
    """
    removed = 0
    with write_lock(tables.root):
        tables.videos.delete(f"state = '{MISSING}'")
        # Before the rows of `videos` are read, so that none of these is missed.
        written = [
            (table, column, _written(table, column, is_remote(tables.root)))
            for table, column in (
                (tables.clips, "entry"),
                (tables.tokens, "entry"),
                (tables.subtitles, "words"),
            )
        ]
        rows = tables.videos.rows(["entry", "words"]).to_pylist()
        for table, column, found in written:
            removed += _remove(table, column, found - {row[column] for row in rows})
    update_indices(tables, thorough=True)
    return removed


def remove_videos(tables: Tables, videos: Sequence[str], where: str | None) -> int:
    """Remove videos from a library; return how many files that were.

    Args:
        tables: the library.
        videos: files, or folders with all that is below them.
        where: SQL over the columns of the videos.

    Raises:
        QueryError: no such video is in the library, or the condition cannot be used.
    """
    conditions = [] if where is None else [f"({where})"]
    for video in videos:
        remote = is_remote(video)
        path = video.rstrip("/") if remote else os.path.realpath(video)
        below = quoted([path + ("/" if remote else os.sep)])[1:-1]
        conditions.append(f"path in {quoted([path])} or starts_with(path, {below})")
    condition = " or ".join(conditions)
    with write_lock(tables.root):
        try:
            count = tables.videos.rows(["path"], condition).num_rows
        except ValueError as error:
            raise QueryError(f"--where {where!r}: {str(error).partition(',')[0]}") from error
        if not count:
            raise QueryError(f"{tables.root}: holds none of these videos")
        tables.videos.delete(condition)
    return int(count)


def _written(table: Table, column: str, some_time_ago: bool) -> set[str]:
    """Return the values of a column, now, or of the newest version that is ten minutes old.

    Raises:
        LibraryError: the table is damaged.
    """
    import pyarrow as pa

    dataset = table.latest()
    try:
        if some_time_ago:
            limit = datetime.datetime.now() - OLD  # of no zone, as Lance gives times
            versions: list[dict[str, Any]] = dataset.versions()  # type: ignore[assignment]
            old = [item["version"] for item in versions if item["timestamp"] < limit]
            if not old:
                return set()
            dataset = dataset.checkout_version(max(old))
        return set(dataset.to_table(columns=[column])[column].unique().to_pylist())
    except (OSError, ValueError, pa.ArrowException) as error:
        raise damaged(table.uri, error) from error


def _remove(table: Table, column: str, values: set[str]) -> int:
    others = sorted(values)
    before = table.latest().count_rows()
    for start in range(0, len(others), _AT_ONCE):
        table.delete(f"{column} in {quoted(others[start : start + _AT_ONCE])}")
    return before - int(table.latest().count_rows())


def _numbers(table: Table, key: str, column: str, data: str) -> dict[str, list[int]]:
    """Return the numbers of all rows, by entry; their data are read, too, and dropped."""
    found: dict[str, list[int]] = {}
    for rows in table.batches([key, column, data], rows=_ROWS_AT_ONCE):
        for entry, number in zip(rows[key].to_pylist(), rows[column].to_pylist(), strict=True):
            found.setdefault(entry, []).append(number)
    return found
