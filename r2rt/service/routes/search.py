"""Search of the library that is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter
from fastapi import Query as Parameter
from pydantic import BaseModel

from r2rt.service.routes.common import PROBLEMS, ServiceOf
from r2rt.service.schemas import Id, UnknownWords, Version
from r2rt.service.service import Service

if TYPE_CHECKING:
    from r2rt.archive.result import Hit

router = APIRouter(prefix="/search", tags=["search"], responses=PROBLEMS)

Text = Annotated[str, Parameter(min_length=1, max_length=2000, examples=["a red car at night"])]
Where = Annotated[
    str | None, Parameter(max_length=1000, description="As of `r2rt search --where`.")
]


class HitDocument(BaseModel):
    """A moment of a video of the library."""

    video: Id
    name: str
    version: Version
    start_s: float
    end_s: float
    score: float
    words: str | None
    date: str | None
    tags: list[str]
    duration_s: float
    thumbnail: str


class SearchDocument(BaseModel):
    """The moments of all videos that fit a sentence, best first."""

    query: str
    present: bool | None
    presence_score: float | None
    unknown_words: UnknownWords
    videos: int
    duration_s: float
    results: list[HitDocument]


@router.get("")
def search_library(
    q: Text,
    service: ServiceOf,
    top: Annotated[int, Parameter(ge=1, le=200)] = 20,
    where: Where = None,
) -> SearchDocument:
    """Find moments in all videos of the library."""
    found = service.computing.search(q, top, where)
    return SearchDocument(
        query=q,
        present=found.present,
        presence_score=found.presence_score,
        unknown_words=list(found.unknown_words),
        videos=found.videos,
        duration_s=found.duration_s,
        results=[_document(service, hit) for hit in found],
    )


def _document(service: Service, hit: Hit) -> HitDocument:
    video = service.videos.add_known(hit.path)
    time_s, version = (hit.start_s + hit.end_s) / 2, video.version
    thumbnail = f"/api/v1/videos/{video.id}/frame?time_s={time_s:.3f}&height=180"
    return HitDocument(
        video=video.id,
        name=video.name,
        version=version,
        start_s=hit.start_s,
        end_s=hit.end_s,
        score=hit.score,
        words=hit.words,
        date=hit.date,
        tags=list(hit.tags),
        duration_s=hit.duration_s,
        thumbnail=thumbnail if version is None else f"{thumbnail}&v={version}",
    )
