"""What a library holds, whether it is whole, and how it is shortened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import msgspec

from r2rt.archive.indices import update_indices
from r2rt.archive.scan import FAILED, MISSING, READY
from r2rt.archive.tables import Table, Tables, folder_bytes, quoted, write_lock
from r2rt.errors import QueryError
from r2rt.video.remote import is_remote

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
    rows = tables.videos.rows(["path", "entry", "state", "clips", "keep"]).to_pylist()
    wanted = {row["entry"] for row in rows}
    pool = tables.settings.clips_per_vector
    vectors = _numbers(tables.clips, "row", "vector")
    tokens = _numbers(tables.tokens, "first", "data")
    faults = []
    for row in rows:
        if not (entry := row["entry"]):
            faults += [f"{row['path']}: ready without clips"] if row["state"] == READY else []
            continue
        expected = list(range(-(-row["clips"] // pool)))
        found = sorted(vectors.get(entry, []))
        if found != expected:
            faults.append(f"{row['path']}: {len(found)} vectors of {len(expected)}")
        if row["keep"] == "tokens":
            firsts = sorted(tokens.get(entry, []))
            if not firsts or len(set(firsts)) != len(firsts) or firsts[0] != 0:
                faults.append(f"{row['path']}: tokens are missing or doubled")
    paths = Counter(row["path"] for row in rows)
    faults += [f"{path}: {count} rows" for path, count in paths.items() if count > 1]
    leftover = sum(
        len(numbers)
        for found in (vectors, tokens)
        for entry, numbers in found.items()
        if entry not in wanted
    )
    videos = sum(row["state"] == READY for row in rows)
    return Check(videos=videos, leftover=leftover, faults=faults)


def compact_tables(tables: Tables) -> int:
    """Remove rows that no video needs, join small files, and complete the indices.

    Nobody can commit meanwhile; searches go on.

    Returns:
        How many rows were removed.
    """
    removed = 0
    with write_lock(tables.root):
        tables.videos.delete(f"state = '{MISSING}'")
        rows = tables.videos.rows(["entry", "words"]).to_pylist()
        entries = {row["entry"] for row in rows if row["entry"]}
        words = {row["words"] for row in rows if row["words"]}
        removed += _remove_others(tables.clips, "entry", entries)
        removed += _remove_others(tables.tokens, "entry", entries)
        removed += _remove_others(tables.subtitles, "words", words)
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
        path = video if is_remote(video) else os.path.realpath(video)
        conditions.append(
            f"path in {quoted([path])} or starts_with(path, {quoted([path + os.sep])[1:-1]})"
        )
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


def _remove_others(table: Table, column: str, kept: set[str]) -> int:
    found = set(table.rows([column])[column].unique().to_pylist())
    others = sorted(found - kept)
    before = table.latest().count_rows()
    for start in range(0, len(others), _AT_ONCE):
        table.delete(f"{column} in {quoted(others[start : start + _AT_ONCE])}")
    return before - int(table.latest().count_rows())


def _numbers(table: Table, column: str, data: str) -> dict[str, list[int]]:
    """Return the numbers of all rows, by entry; their data are read, too, and dropped."""
    found: dict[str, list[int]] = {}
    for rows in table.batches(["entry", column, data], rows=_ROWS_AT_ONCE):
        for entry, number in zip(rows["entry"].to_pylist(), rows[column].to_pylist(), strict=True):
            found.setdefault(entry, []).append(number)
    return found
