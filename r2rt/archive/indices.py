"""Indices of the tables, small files joined, old versions removed: after writing, not while."""

from __future__ import annotations

import contextlib
import datetime
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from r2rt.archive.tables import Table, TableName, Tables, folder_bytes, unwritable
from r2rt.video.remote import is_remote

if TYPE_CHECKING:
    from lance import LanceDataset

__all__ = [
    "OLD",
    "ROWS_A_PARTITION",
    "VECTOR_INDEX",
    "num_partitions",
    "remove_old_versions",
    "update_indices",
]

_log = logging.getLogger(__name__)

VECTOR_INDEX = "vectors"
# Below this many vectors, comparing with all of them takes a few milliseconds.
_FEW_VECTORS = 50_000
# New rows that are read one by one, in a few milliseconds, before an index takes them.
_FEW_NEW = 16_384
_FEW_NEW_TOKENS = 1_000
# A vector index is made anew when its partitions have become so many times as large.
_GROWTH = 4
# A part of an index is joined with newer ones that have together at least this share of its rows.
# Then every row is written a few times, however often rows are added, and parts remain few.
_JOINED_SHARE = 0.25
_MOST_FILES = 64
# Rows of a file that is left as it is: rewriting gigabytes at every commit would be quadratic.
_ROWS_A_FILE: dict[TableName, int] = {"tokens": 8192}
_USUAL_ROWS_A_FILE = 1 << 18
# Rows in memory while files are joined; a row of tokens is 250 KB.
_ROWS_AT_ONCE: dict[TableName, int] = {"tokens": 64}
# Readers that began before a version was replaced have this long to end.
OLD = datetime.timedelta(minutes=10)
ROWS_A_PARTITION = 8192


def update_indices(
    tables: Tables, *, thorough: bool = False, quota_bytes: int | None = None
) -> None:
    """Bring indices up to date and join small files, where that is worth its time.

    Only one process does this at a time; others leave it to that one.

    Args:
        tables: the library.
        thorough: do it now, and remove all old versions that nobody can be reading.
        quota_bytes: the most that the library may take; a table is not joined where its old files,
            which stay for a while, and the new ones would take more.
    """
    with _alone(tables.root) as alone:
        if not alone:
            return
        for name, table in tables.all():
            if quota_bytes is None or _with_copy(tables, table) <= quota_bytes:
                _join_small_files(name, table, most=1 if thorough else _MOST_FILES)
        new, new_tokens = (0, 0) if thorough else (_FEW_NEW, _FEW_NEW_TOKENS)
        _update_vectors(tables.clips, new=new)
        _update_scalar(tables.clips, "entry", "BTREE", least=_FEW_VECTORS, new=new)
        _update_scalar(tables.tokens, "entry", "BTREE", least=1000, new=new_tokens)
        _update_scalar(tables.subtitles, "text", "INVERTED", least=1, new=new_tokens)
        remove_old_versions(tables)


def remove_old_versions(tables: Tables) -> None:
    """Remove the files that no version of the last ten minutes needs."""
    for _, table in tables.all():
        table.commit(lambda dataset: dataset.cleanup_old_versions(older_than=OLD))


def num_partitions(dataset: LanceDataset) -> int:
    """Return into how many partitions the vectors are indexed; 0 without an index."""
    if VECTOR_INDEX not in _names(dataset):
        return 0
    return int(dataset.stats.index_stats(VECTOR_INDEX)["indices"][0]["num_partitions"])


def _with_copy(tables: Tables, table: Table) -> int:
    """Return the bytes that a library on disk takes with a table twice."""
    return folder_bytes(tables.root) + folder_bytes(table.uri)


def _join_small_files(name: TableName, table: Table, *, most: int) -> None:
    rows = _ROWS_A_FILE.get(name, _USUAL_ROWS_A_FILE)
    small = sum(part.count_rows() < rows for part in table.latest().get_fragments())
    if small > most:
        table.commit(
            lambda dataset: dataset.optimize.compact_files(
                target_rows_per_fragment=rows, batch_size=_ROWS_AT_ONCE.get(name)
            )
        )
        _log.info("%s: joined %d files", name, small)


def _update_vectors(table: Table, *, new: int) -> None:
    dataset = table.latest()
    rows = dataset.count_rows()
    if rows < _FEW_VECTORS:
        return
    if rows < _GROWTH * num_partitions(dataset) * ROWS_A_PARTITION:
        _extend(table, VECTOR_INDEX, new=new)
        return
    _log.info("building the index of %d vectors", rows)
    table.commit(
        lambda dataset: dataset.create_index(
            "vector",
            "IVF_RQ",
            name=VECTOR_INDEX,
            metric="cosine",
            num_partitions=max(1, 2 ** round(math.log2(rows / ROWS_A_PARTITION))),
            replace=True,
        )
    )


def _update_scalar(table: Table, column: str, kind: str, *, least: int, new: int) -> None:
    dataset = table.latest()
    if dataset.count_rows() < least:
        return
    name = f"{column}_index"
    if name not in _names(dataset):
        table.commit(lambda dataset: dataset.create_scalar_index(column, kind, name=name))
    else:
        _extend(table, name, new=new)


def _extend(table: Table, name: str, *, new: int) -> None:
    """Give an index the rows that it has not, if they are more than so many.

    They become a part of their own, joined with the latest ones that are not much larger.
    """
    stats = table.latest().stats.index_stats(name)
    rows = int(stats["num_unindexed_rows"])
    if rows <= new:
        return
    joined = 0
    for part in reversed(stats["num_indexed_rows_per_delta"]):
        if rows < _JOINED_SHARE * part:
            break
        rows += part
        joined += 1
    table.commit(
        lambda dataset: dataset.optimize.optimize_indices(
            index_names=[name], num_indices_to_merge=joined
        )
    )


def _names(dataset: LanceDataset) -> set[str]:
    return {index.name for index in dataset.describe_indices()}


@contextlib.contextmanager
def _alone(root: str) -> Iterator[bool]:
    if is_remote(root):
        yield True
        return
    from filelock import FileLock, Timeout

    try:
        lock = FileLock(Path(root, "locks", "indices.lock"))
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise unwritable(root, error) from error
    try:
        yield True
    finally:
        lock.release()
