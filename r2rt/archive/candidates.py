"""The first stage: the windows of a library whose vectors are most like the query."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from r2rt.archive.indices import num_partitions
from r2rt.archive.tables import Tables, quoted
from r2rt.archive.vectors import Floats, as_vectors, normalized
from r2rt.grounding.windows import Window, WindowSize, plan_windows

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Candidate", "FirstStage", "num_windows"]

# Windows that the mean and spread of cosines are measured on.
_SAMPLE_WINDOWS = 256
# Clips of a window where the model has no length of its own.
_WINDOW_CLIPS = 75
# Rows in the partitions that a query reads at least, and the share of all that it reads else.
_PROBED_ROWS, _PROBED_SHARE = 400_000, 0.04
# Vectors that are compared exactly, for each that is asked for.
_REFINED = 2


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A window that may hold the moment searched for.

    Attributes:
        entry: its video.
        window: its clips.
        cosine: the greatest of its vectors with the query; of several queries their mean.
        z: the sum over queries of the cosine, standardised over the library.
    """

    entry: str
    window: Window
    cosine: float
    z: float


@dataclass(frozen=True, eq=False)
class _Corpus:
    """Vectors of windows all over the library.

    Attributes:
        rows: how many rows the table had.
        vectors: (N, E).
        starts: (S,) where each window begins in them.
    """

    rows: int
    vectors: Floats
    starts: NDArray[np.int64]

    def moments(self, queries: Floats) -> tuple[Floats, Floats, Floats]:
        """Return for each query mean and deviation of windows' maxima, and deviation of clips."""
        cosines = self.vectors @ queries.T
        best = np.maximum.reduceat(cosines, self.starts, axis=0)
        return best.mean(axis=0), best.std(axis=0), cosines.std(axis=0)


def num_windows(clips: Iterable[int], size: WindowSize | None) -> int:
    """Return into how many windows videos of so many clips are split by `plan_windows`."""
    lengths = np.fromiter(clips, np.int64)
    if size is None:
        return int(np.count_nonzero(lengths))
    step = size.clips - size.overlap
    windows = 1 - (np.minimum(size.clips - lengths, 0) // step)
    return int(windows[lengths > 0].sum())


class FirstStage:
    """Finds windows; threads may share it."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        settings = tables.settings
        self._pool = settings.clips_per_vector
        self.size = (
            None
            if settings.window_clips is None
            else WindowSize(clips=settings.window_clips, overlap=settings.overlap_clips)
        )
        clips = settings.window_clips or _WINDOW_CLIPS
        self._window_rows = -(-clips // self._pool)
        self._corpus: _Corpus | None = None
        self._probed: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def candidates(
        self, queries: Floats, clips: Mapping[str, int], *, windows: int, filtered: bool
    ) -> list[Candidate]:
        """Return the windows that are most like the queries, best first.

        Args:
            queries: (Q, E); the search is for windows like all of them.
            clips: the number of clips of every entry that may be in the answer.
            windows: how many windows are wanted at most.
            filtered: whether the entries are a selection; else they are all that readers may see.
        """
        if not clips or not self._tables.clips.latest().count_rows():
            return []
        queries = normalized(queries)
        mean, deviation, clip_deviation = self._sample().moments(queries)
        scale = np.maximum(clip_deviation, 1e-6)
        together = normalized((queries / scale[:, None]).sum(axis=0))
        best, others = self._best(together, queries, clips, windows, filtered=filtered)
        if others and len(best) < windows:
            # What was removed or replaced is still there, and took the places of the others.
            best, _ = self._best(together, queries, clips, windows, filtered=True)
        z = _standardised(
            np.array([item[1] for item in best]).reshape(-1, len(queries)), mean, deviation
        )
        order = np.argsort(-z, kind="stable")[:windows]
        return [
            Candidate(
                entry=best[number][0][0],
                window=best[number][0][1],
                cosine=float(best[number][1].mean()),
                z=float(z[number]),
            )
            for number in order
        ]

    def span_cosines(
        self, candidate: Candidate, queries: Floats
    ) -> tuple[NDArray[np.int64], Floats]:
        """Return the first clip of every vector of a window, and its mean cosine with queries."""
        window, pool = candidate.window, self._pool
        where = (
            f"entry in {quoted([candidate.entry])} and row >= {window.start_clip // pool} "
            f"and row < {-(-window.end_clip // pool)}"
        )
        found = self._tables.clips.rows(["row", "vector"], where).sort_by("row")
        vectors = as_vectors(found["vector"], self._tables.settings.width)
        return np.asarray(found["row"]).astype(np.int64) * pool, (
            vectors @ normalized(queries).T
        ).mean(axis=1)

    def _best(
        self,
        query: Floats,
        queries: Floats,
        clips: Mapping[str, int],
        windows: int,
        *,
        filtered: bool,
    ) -> tuple[list[tuple[tuple[str, Window], Floats]], bool]:
        """Return windows near a query, see `_windows`, and whether rows of none were as near."""
        several = len(queries) > 1
        found = self._nearest(query, windows, list(clips) if filtered else None, several=several)
        if several:
            cosines = as_vectors(found["vector"], self._tables.settings.width) @ queries.T
        else:
            cosines = 1 - np.asarray(found["_distance"], np.float32)[:, None]
        others = any(entry not in clips for entry in found["entry"].to_pylist())
        return self._windows(found, cosines, clips), others

    def _nearest(
        self, query: Floats, windows: int, entries: Sequence[str] | None, *, several: bool
    ) -> pa.Table:
        """Return so many rows that they are of enough windows, whichever rows these are."""
        nearest: dict[str, Any] = {
            "column": "vector",
            "q": query.astype(np.float16),
            "k": windows * self._window_rows,
            "metric": "cosine",
            "refine_factor": _REFINED,
        }
        nearest["minimum_nprobes"] = self._probes()
        if entries is None:  # else some partitions may hold no row of them
            nearest["maximum_nprobes"] = nearest["minimum_nprobes"]
        return self._tables.clips.read(
            columns=["entry", "row", "vector" if several else "_distance"],
            nearest=nearest,
            filter=None if entries is None else f"entry in {quoted(entries)}",
            prefilter=entries is not None,
        )

    def _probes(self) -> int:
        """Return how many partitions of the index a query reads, computed once a version."""
        dataset = self._tables.clips.latest()
        with self._lock:
            if self._probed is None or self._probed[0] != dataset.version:
                share = max(_PROBED_ROWS / max(dataset.count_rows(), 1), _PROBED_SHARE)
                probes = math.ceil(min(share, 1.0) * num_partitions(dataset))
                self._probed = dataset.version, max(probes, 1)
            return self._probed[1]

    def _windows(
        self, found: pa.Table, cosines: Floats, clips: Mapping[str, int]
    ) -> list[tuple[tuple[str, Window], Floats]]:
        """Return every window that has a row, with its greatest cosine with each query.

        A row belongs to the one window in whose middle it is, as far as there are several.
        """
        best: dict[tuple[str, Window], Floats] = {}
        plans: dict[int, tuple[tuple[Window, ...], NDArray[np.float64]]] = {}
        entries = found["entry"].to_pylist()
        for entry, row, values in zip(entries, found["row"].to_pylist(), cosines, strict=True):
            if entry not in clips:
                continue  # not ready, or removed
            count = clips[entry]
            if count not in plans:
                plan = plan_windows(count, self.size)
                middles = np.array([(item.start_clip + item.end_clip) / 2 for item in plan])
                plans[count] = plan, middles
            plan, middles = plans[count]
            window = plan[int(np.argmin(np.abs(middles - (row + 0.5) * self._pool)))]
            key = (entry, window)
            best[key] = np.maximum(best[key], values) if key in best else values
        return list(best.items())

    def _sample(self) -> _Corpus:
        """Return vectors of windows spread evenly over the table, read once a version."""
        dataset = self._tables.clips.latest()
        rows = dataset.count_rows()
        with self._lock:
            if self._corpus is None or self._corpus.rows != rows:
                self._corpus = self._read_sample(dataset, rows)
            return self._corpus

    def _read_sample(self, dataset: Any, rows: int) -> _Corpus:
        length = self._window_rows
        columns = ["entry", "row", "vector"]
        if rows <= _SAMPLE_WINDOWS * length:
            found = self._tables.clips.read(columns=columns)
        else:
            starts = np.linspace(0, rows - length, _SAMPLE_WINDOWS).astype(int)
            found = dataset.take((starts[:, None] + np.arange(length)).ravel().tolist(), columns)
        # A window ends where the video does.
        entries = np.asarray(found["entry"].to_pylist())
        numbers = np.asarray(found["row"]) // length
        changes = (entries[1:] != entries[:-1]) | (numbers[1:] != numbers[:-1])
        return _Corpus(
            rows,
            as_vectors(found["vector"], self._tables.settings.width),
            np.concatenate([[0], np.flatnonzero(changes) + 1]),
        )


def _standardised(cosines: Floats, mean: Floats, deviation: Floats) -> Floats:
    """Return the sum over queries of z (N,); where nothing differs, z is 0."""
    scaled = (cosines - mean) / np.where(deviation > 1e-6, deviation, np.inf)
    total: Floats = scaled.sum(axis=1)
    return total
