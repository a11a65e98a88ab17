"""Corrections of moments, kept as annotations."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, ConfigDict, Field

from r2rt.service.annotations import version_of
from r2rt.service.routes.common import PROBLEMS, ServiceOf, VideoId
from r2rt.service.schemas import Query, Seconds

router = APIRouter(tags=["annotations"], responses=PROBLEMS)

Window = tuple[Seconds, Seconds]
Windows = Annotated[list[Window], Field(max_length=1000, examples=[[[12.5, 20.0]]])]
_LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/jsonl": {}}, "description": "JSON lines."}
}
_TAGGED: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            "ETag": {"description": "Changes with the annotations.", "schema": {"type": "string"}}
        }
    }
}
_CHANGED: dict[int | str, dict[str, Any]] = {
    412: {**PROBLEMS["default"], "description": "The annotations are others than If-Match says."}
}


class AnnotationRecord(BaseModel):
    """What somebody says of one query: moments that are right, and some that are not."""

    model_config = ConfigDict(extra="forbid")

    query: Query
    windows: Windows
    rejected: Windows = []


class AnnotationsBody(BaseModel):
    """The annotations of a video."""

    model_config = ConfigDict(extra="forbid")

    records: Annotated[list[AnnotationRecord], Field(max_length=1000)]


@router.get("/videos/{video_id}/annotations", responses=_TAGGED)
def get_annotations(video_id: VideoId, service: ServiceOf, response: Response) -> AnnotationsBody:
    """Return the annotations of a video."""
    records = service.annotations.get(service.videos.get(video_id))
    response.headers["ETag"] = f'"{version_of(records)}"'
    return AnnotationsBody(records=[AnnotationRecord(**record) for record in records])


@router.put("/videos/{video_id}/annotations", responses=_TAGGED | _CHANGED)
def put_annotations(
    video_id: VideoId,
    body: AnnotationsBody,
    service: ServiceOf,
    response: Response,
    if_match: Annotated[
        str | None, Header(description="The ETag of the annotations to replace; without it, any.")
    ] = None,
) -> AnnotationsBody:
    """Replace the annotations of a video."""
    video = service.videos.known(video_id)  # its duration says which windows can be right
    records = [record.model_dump() for record in body.records]
    # A proxy that compresses makes tags weak.
    tag = (if_match or "*").removeprefix("W/").strip('"')
    service.annotations.put(video, records, None if tag == "*" else tag)
    response.headers["ETag"] = f'"{version_of(records)}"'
    return body


@router.get("/videos/{video_id}/annotations.jsonl", response_class=Response, responses=_LINES)
def get_annotation_lines(video_id: VideoId, service: ServiceOf) -> Response:
    """Return the annotations of a video as `python -m training.data validate` reads them."""
    return _lines(service.annotations.lines([service.videos.get(video_id)]))


@router.get("/annotations.jsonl", response_class=Response, responses=_LINES)
def get_all_annotation_lines(service: ServiceOf) -> Response:
    """Return the annotations of all videos."""
    return _lines(service.annotations.lines(service.videos.all()))


def _lines(text: str) -> Response:
    headers = {"Content-Disposition": 'attachment; filename="annotations.jsonl"'}
    return Response(text, media_type="application/jsonl", headers=headers)
