"""Search without grounding: frames, or chunks of 30 s, ranked by their cosine alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from r2rt.archive.tables import Tables
from r2rt.archive.vectors import as_vectors, normalized

__all__ = ["Span", "Unit", "best_spans", "rows_of"]

Floats = NDArray[np.float32]
Span: TypeAlias = tuple[str, float, float]
Unit: TypeAlias = Literal["frames", "chunks"]

_CHUNK_S = 30.0
_ROWS_AT_ONCE = 8192


def best_spans(
    videos: Iterable[tuple[str, Floats]], queries: Floats, *, unit: Unit, row_s: float, top: int
) -> list[list[Span]]:
    """Return the best spans for each query, best first.

    Args:
        videos: name and rows (N, E) of every video.
        queries: (Q, E).
        unit: `frames`: the best row of a video, and those around it above half of its height over
            the video's mean; `chunks`: 30 s each, compared by the mean of their cosines.
        row_s: seconds of a row.
        top: how many spans a query.
    """
    queries = normalized(queries)
    found: list[list[tuple[float, Span]]] = [[] for _ in queries]
    for name, rows in videos:
        cosines = normalized(rows) @ queries.T
        starts = np.arange(0, len(rows), round(_CHUNK_S / row_s) if unit == "chunks" else len(rows))
        if unit == "chunks":
            sizes = np.diff([*starts, len(rows)])
            scores = np.add.reduceat(cosines, starts, axis=0) / sizes[:, None]
        else:
            scores = cosines.max(axis=0, keepdims=True)
        for number, ranked in enumerate(found):
            least = ranked[-1][0] if len(ranked) == top else -np.inf
            for place in np.flatnonzero(scores[:, number] > least):
                if unit == "chunks":
                    start = int(starts[place])
                    end = start + int(sizes[place])
                else:
                    start, end = _around_peak(cosines[:, number])
                span = name, start * row_s, end * row_s
                ranked.append((float(scores[place, number]), span))
            ranked.sort(key=lambda item: -item[0])
            del ranked[top:]
    return [[span for _, span in ranked] for ranked in found]


def rows_of(tables: Tables) -> Iterator[tuple[str, Floats]]:
    """Yield the path and all vectors of every video of a library, in the order of the table."""
    columns = tables.videos.rows(["entry", "path"])
    paths = dict(zip(columns["entry"].to_pylist(), columns["path"].to_pylist(), strict=True))
    entry, parts = None, []
    for batch in tables.clips.batches(["entry", "vector"], rows=_ROWS_AT_ONCE):
        import pyarrow as pa

        entries = np.asarray(batch["entry"].to_pylist())
        vectors = as_vectors(pa.chunked_array([batch["vector"]]), tables.settings.width)
        changes = np.flatnonzero(entries[1:] != entries[:-1]) + 1
        for part, first in zip(np.split(vectors, changes), [0, *changes], strict=True):
            if entry not in (None, entries[first]):
                if entry in paths:  # else its writer was killed before the video's row
                    yield paths[entry], np.concatenate(parts)
                parts = []
            entry = str(entries[first])
            parts.append(part)
    if entry in paths:
        yield paths[entry], np.concatenate(parts)


def _around_peak(scores: Floats) -> tuple[int, int]:
    best = int(scores.argmax())
    above = scores > (scores[best] + scores.mean()) / 2
    start, end = best, best + 1
    while start and above[start - 1]:
        start -= 1
    while end < len(scores) and above[end]:
        end += 1
    return start, end
