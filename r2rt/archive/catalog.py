"""The videos that a search may answer with, read once a version of their table."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from r2rt.archive.scan import READY
from r2rt.archive.tables import Row, Tables
from r2rt.errors import QueryError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Catalog", "Snapshot"]

_COLUMNS = ("path", "entry", "words", "duration_s", "start_s", "clips", "keep", "date", "tags")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The videos of one version that fit a filter; it does not change.

    Attributes:
        table: their rows, by path.
        filtered: whether they are a selection of all.
    """

    table: pa.Table
    filtered: bool

    @cached_property
    def clips(self) -> dict[str, int]:
        """The number of clips of every entry."""
        return dict(zip(self._entries, self.table["clips"].to_pylist(), strict=True))

    @cached_property
    def words(self) -> dict[str, str]:
        """The entry of every id of subtitles."""
        ids = self.table["words"].to_pylist()
        return {words: entry for words, entry in zip(ids, self._entries, strict=True) if words}

    @cached_property
    def duration_s(self) -> float:
        """How long all entries are together."""
        lengths = np.asarray(self.table["duration_s"])
        return float(lengths[list(self._first.values())].sum())

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self._first)

    def row(self, entry: str) -> Row:
        """Return the row of an entry: of its first path, if it has several."""
        rows: list[Row] = self.table.slice(self._first[entry], 1).to_pylist()
        return rows[0]

    def other_paths(self, entry: str) -> tuple[str, ...]:
        """Return the other paths of an entry, in order."""
        return tuple(self.table["path"][number].as_py() for number in self._others.get(entry, ()))

    @cached_property
    def _entries(self) -> list[str]:
        entries: list[str] = self.table["entry"].to_pylist()
        return entries

    @cached_property
    def _first(self) -> dict[str, int]:
        first: dict[str, int] = {}
        for number, entry in enumerate(self._entries):
            first.setdefault(entry, number)
        return first

    @cached_property
    def _others(self) -> dict[str, list[int]]:
        others: dict[str, list[int]] = {}
        if len(self._first) < len(self._entries):
            for number, entry in enumerate(self._entries):
                if self._first[entry] != number:
                    others.setdefault(entry, []).append(number)
        return others


class Catalog:
    """Gives snapshots; the one of all videos is kept until their table has a new version.

    Threads may share it.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._kept: tuple[int, Snapshot] | None = None
        self._lock = threading.Lock()

    def snapshot(self, where: str | None = None) -> Snapshot:
        """Return the videos that are ready and fit a filter, in Lance's SQL.

        Raises:
            QueryError: the filter cannot be used.
            LibraryError: the table is damaged.
        """
        if where is not None:
            return Snapshot(self._read(where), filtered=True)
        with self._lock:
            version = self._tables.videos.latest().version
            if self._kept is None or self._kept[0] != version:
                self._kept = version, Snapshot(self._read(None), filtered=False)
            return self._kept[1]

    def _read(self, where: str | None) -> pa.Table:
        videos = self._tables.videos
        # A filter has its own condition: it may end the parentheses that it stands in.
        condition = f"state = '{READY}'" if where is None else f"({where})"
        try:
            rows = videos.rows((*_COLUMNS, "state"), condition)
        except ValueError as error:
            names = ", ".join(videos.latest().schema.names)
            reason = str(error).partition("Valid fields")[0].partition(", /")[0].strip()
            raise QueryError(f"--where {where!r}: {reason}; columns are {names}") from error
        return rows.filter(np.asarray(rows["state"]) == READY).sort_by("path")
