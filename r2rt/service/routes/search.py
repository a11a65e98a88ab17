"""Search of the library that is served."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi import Query as Parameter
from pydantic import BaseModel

from r2rt.service.routes.common import PROBLEMS, ServiceOf
from r2rt.service.schemas import Id

router = APIRouter(prefix="/search", tags=["search"], responses=PROBLEMS)

Text = Annotated[str, Parameter(min_length=1, max_length=2000, examples=["a red car at night"])]
Where = Annotated[
    str | None, Parameter(max_length=1000, description="As of `r2rt search --where`.")
]


class HitDocument(BaseModel):
    """A moment of a video of the library."""

    video: Id
    name: str
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
    return SearchDocument(**service.library.search(q, top=top, where=where))
