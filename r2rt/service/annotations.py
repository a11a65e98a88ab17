"""What people say of a video: moments that are right, and moments that are not.

Written as JSON lines they are annotations that `python -m training.data validate` accepts: a query
with moments is one line. A query whose moments were all rejected has nothing to learn from there,
and no line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r2rt.errors import QueryError
from r2rt.service.database import Database
from r2rt.service.names import stored_name
from r2rt.service.problems import ProblemError
from r2rt.service.videos import Video

__all__ = ["Annotations", "version_of"]


class Annotations:
    """The table of annotations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, video: Video) -> list[dict[str, Any]]:
        """Return the records of a video, in the order in which they were put."""
        rows = self._database.rows(
            "SELECT record FROM annotations WHERE video = ? ORDER BY place", (video.id,)
        )
        return [json.loads(row["record"]) for row in rows]

    def put(
        self, video: Video, records: Sequence[Mapping[str, Any]], version: str | None = None
    ) -> None:
        """Replace the records of a video.

        A window that a query has already is kept wherever it lies: the file may have been replaced
        by a shorter one, and clients put all records at once.

        Args:
            video: the video, which was looked at.
            records: `query`, `windows` and `rejected` (start and end in seconds, each).
            version: of the records that they replace, see `version_of`; None for any.

        Raises:
            QueryError: a new window is no span of the video, or a query comes twice.
            ProblemError: the records are of another version.
        """
        duration_s = float(video.facts["duration_s"])
        queries = [record["query"] for record in records]
        if len(set(queries)) < len(queries):
            raise QueryError("a query comes twice; put its windows into one record")
        with self._database.transaction():
            before = self.get(video)
            if version is not None and version_of(before) != version:
                raise ProblemError(
                    412,
                    "annotations-changed",
                    "the annotations are others than If-Match says; get them and put again",
                )
            known = set(_spans(before))
            for query, start_s, end_s in _spans(records):
                inside = 0 <= start_s < min(end_s, duration_s)
                if not inside and (query, start_s, end_s) not in known:
                    raise QueryError(
                        f"a window from {start_s:g} to {end_s:g} s; expected a span of the "
                        f"{duration_s:g} s of the video"
                    )
            self._database.write("DELETE FROM annotations WHERE video = ?", (video.id,))
            for place, record in enumerate(records):
                self._database.write(
                    "INSERT INTO annotations (video, place, record) VALUES (?, ?, ?)",
                    (video.id, place, json.dumps(record)),
                )

    def lines(self, videos: Sequence[Video]) -> str:
        """Return the annotations of videos as JSON lines.

        An id is a digest of video and query: lines of several services, and of files whose ids are
        numbers, can be put together.
        """
        lines: list[str] = []
        for video in videos:
            duration_s = float(video.facts.get("duration_s") or 0.0)
            for record in self.get(video):
                windows = [
                    [start_s, min(end_s, duration_s)]
                    for start_s, end_s in sorted(record["windows"])
                    if start_s < duration_s  # the file may have been replaced by a shorter one
                ]
                if windows:
                    document = {
                        "qid": _qid(video, record["query"]),
                        "query": record["query"],
                        "vid": Path(stored_name(video.name)).stem,
                        "duration": duration_s,
                        "relevant_windows": windows,
                        "rejected_windows": record["rejected"],
                    }
                    lines.append(json.dumps(document) + "\n")
        return "".join(lines)


def version_of(records: Sequence[Mapping[str, Any]]) -> str:
    """Return a name of the records, which others do not have."""
    return hashlib.sha256(json.dumps(records).encode()).hexdigest()[:32]


def _spans(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float, float]]:
    """Yield query, start and end in seconds of every window, right or rejected."""
    for record in records:
        for start_s, end_s in (*record["windows"], *record["rejected"]):
            yield record["query"], start_s, end_s


def _qid(video: Video, query: str) -> str:
    digest = hashlib.sha256(f"{video.id}\n{query}".encode()).hexdigest()
    return f"page-{digest[:16]}"
