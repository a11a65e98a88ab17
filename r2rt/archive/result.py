"""What a search answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["SCHEMA_VERSION", "Hit", "SearchResult", "SearchTimings"]

# Of the JSON document that `r2rt/archive/search.schema.json` describes. A new field keeps the
# number; a field that goes or changes its meaning raises it.
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A moment of one of the library's videos.

    Attributes:
        path: the video.
        start_s: where the moment starts, in seconds on the video's clock.
        end_s: where it ends.
        score: in (0, 1), comparable across the library's videos for one query; 0 for a hit that was
            found by its words alone.
        grounder_score: of the second stage; None where it was not asked.
        cosine: of the first stage; None for a moment that only its words found.
        words: the subtitle line that fits the query; None where none does.
        also: other paths of the same video.
        date: when it was recorded, or else last changed, in ISO format; None if unknown.
        tags: the video's own.
        duration_s: how long the video is.
    """

    path: str
    start_s: float
    end_s: float
    score: float
    grounder_score: float | None = None
    cosine: float | None = None
    words: str | None = None
    also: tuple[str, ...] = ()
    date: str | None = None
    tags: tuple[str, ...] = ()
    duration_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SearchTimings:
    """Wall-clock seconds: of embedding the query, of the first stage and of the second."""

    query_s: float
    first_s: float
    second_s: float


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The answer to one search; iterating over it yields its hits.

    Attributes:
        query: the sentence; None where an image alone was given.
        images: names of the images and moments that were given.
        where: the filter; None for none.
        hits: best first.
        present: whether the query is in the library at all; None if the model cannot decide.
        presence_score: confidence in that; see `Prediction.presence_score`.
        unknown_words: of the sentence; see `Prediction.unknown_words`.
        videos: how many videos were searched.
        duration_s: how long they are together.
        windows: how many windows they have.
        grounded: how many of them the second stage looked at.
        skipped: why windows were left out, by path, such as a file that is not there to be read.
        model: name of the model.
        timings: seconds a stage.
    """

    query: str | None
    images: tuple[str, ...] = ()
    where: str | None = None
    hits: tuple[Hit, ...] = ()
    present: bool | None = None
    presence_score: float | None = None
    unknown_words: tuple[str, ...] = ()
    videos: int = 0
    duration_s: float = 0.0
    windows: int = 0
    grounded: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    model: str = ""
    timings: SearchTimings

    def __iter__(self) -> Iterator[Hit]:
        """Yield the hits, best first."""
        return iter(self.hits)

    def __len__(self) -> int:
        """How many hits there are."""
        return len(self.hits)

    def to_dict(self) -> dict[str, Any]:
        """Return the document of the `json` format, of plain types."""
        content = dataclasses.asdict(self)
        return {"schema_version": SCHEMA_VERSION, **content}
