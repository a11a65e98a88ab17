"""Videos, images and clips made of them, and answers about them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from anyio import from_thread, to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse

from r2rt.service.answers import Asked
from r2rt.service.computing import NotEncodedError
from r2rt.service.containers import media_type, why_not_playable
from r2rt.service.jobs.work import as_document
from r2rt.service.media import MOST_FRAMES
from r2rt.service.problems import ProblemError
from r2rt.service.routes.common import PROBLEMS, Owner, ServiceOf, VideoId
from r2rt.service.schemas import (
    AddVideo,
    AnswerBody,
    GroundBody,
    PeaksDocument,
    VideoDetails,
    VideoDocument,
)
from r2rt.service.service import Service
from r2rt.service.videos import Video

router = APIRouter(prefix="/videos", tags=["videos"], responses=PROBLEMS)

T = TypeVar("T")
Check = Callable[[], None]
StartS = Annotated[float, Query(ge=0, le=1e9, allow_inf_nan=False)]
EndS = Annotated[float | None, Query(gt=0, le=1e9, allow_inf_nan=False)]
_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {}}, "description": "A JPEG."}
}
# Browsers ask for no image again within the hour: `v` names another address for another file.
_KEPT = {"Cache-Control": "private, max-age=3600"}


async def _takes_version(
    v: Annotated[
        str | None, Query(max_length=100, description="`version` of the video; for caches.")
    ] = None,
) -> None:
    """Document what only caches read."""


_VERSIONED = [Depends(_takes_version)]


@router.get("")
def list_videos(service: ServiceOf) -> list[VideoDocument]:
    """Return every video, the newest first."""
    return [_document(service, video) for video in service.videos.all()]


@router.post("", status_code=201)
def add_video(body: AddVideo, service: ServiceOf, owner: Owner) -> VideoDocument:
    """Add a video from a path below an allowed folder, or from an address."""
    if (body.path is None) == (body.url is None):
        raise ProblemError(422, "invalid-request", "give either path or url")
    if body.path is not None:
        video = service.videos.add_path(service.videos.allowed(body.path))
    else:
        assert body.url is not None
        video = service.add_url(body.url)
    if (body.encode and video.state in ("new", "failed")) or body.url is not None:
        service.encode_soon(video, owner=owner, encode=body.encode)
    return _document(service, service.videos.get(video.id))


@router.get("/{video_id}")
def get_video(video_id: VideoId, service: ServiceOf) -> VideoDetails:
    """Return a video with its streams."""
    video = service.videos.get(video_id)
    if video.path.is_file():
        video = service.videos.known(video.id)
    facts = video.facts
    reason = why_not_playable(facts) if facts else "it is not fetched yet"
    return VideoDetails(
        **_document(service, video).model_dump(),
        size_bytes=facts.get("size_bytes"),
        container=facts.get("container"),
        codec=facts.get("codec"),
        frame_rate_exact=facts.get("frame_rate_exact"),
        audio=facts.get("audio", []),
        playable=reason is None,
        not_playable_reason=reason,
    )


@router.delete("/{video_id}", status_code=204)
def remove_video(video_id: VideoId, service: ServiceOf) -> None:
    """Forget a video; the file of one that was uploaded or fetched is removed."""
    video = service.videos.get(video_id)
    for job in service.jobs.active("encode", video.id):
        service.runner.cancel(job.id)
    service.media.forget(video.path)
    service.videos.remove(video_id)


@router.get("/{video_id}/file", response_class=FileResponse, dependencies=_VERSIONED)
def get_file(video_id: VideoId, service: ServiceOf, download: bool = False) -> FileResponse:
    """Return the file, or the ranges of it that are asked for; `download` also what cannot play."""
    video = service.videos.there(video_id)
    reason = why_not_playable(video.facts)
    if reason is not None and not download:
        raise ProblemError(415, "not-playable", f"{reason}; /clip converts parts of it")
    return FileResponse(
        video.path,
        media_type=media_type(video.facts["container"]),
        filename=video.name if download else None,
        content_disposition_type="attachment" if download else "inline",
    )


@router.get(
    "/{video_id}/filmstrip", response_class=Response, responses=_JPEG, dependencies=_VERSIONED
)
async def get_filmstrip(
    video_id: VideoId,
    service: ServiceOf,
    request: Request,
    start_s: StartS = 0.0,
    end_s: EndS = None,
    count: Annotated[int, Query(ge=1, le=MOST_FRAMES)] = 20,
    height: Annotated[int, Query(ge=16, le=720)] = 72,
) -> Response:
    """Return `count` frames of a span beside each other in one image."""

    def make(video: Video, check: Check) -> bytes:
        end = video.facts["duration_s"] if end_s is None else end_s
        return service.media.filmstrip(video.path, start_s, end, count, height, check)

    image = await _made(service, request, video_id, make)
    return Response(image, media_type="image/jpeg", headers=_KEPT)


@router.get("/{video_id}/frame", response_class=Response, responses=_JPEG, dependencies=_VERSIONED)
async def get_frame(
    video_id: VideoId,
    service: ServiceOf,
    request: Request,
    time_s: StartS,
    height: Annotated[int, Query(ge=16, le=2160)] = 360,
) -> Response:
    """Return the frame on display at a time."""

    def make(check: Check) -> bytes:
        return service.media.frame(service.videos.source(video_id), time_s, height, check)

    image = await _in_threads(service, request, make)
    return Response(image, media_type="image/jpeg", headers=_KEPT)


@router.get("/{video_id}/peaks", dependencies=_VERSIONED)
async def get_peaks(
    video_id: VideoId,
    service: ServiceOf,
    request: Request,
    start_s: StartS = 0.0,
    end_s: EndS = None,
    count: Annotated[int, Query(ge=1, le=10_000)] = 500,
) -> PeaksDocument:
    """Return the waveform of a span; all zeros where there is no sound."""

    def make(video: Video, _: Check) -> PeaksDocument:
        from r2rt.media.waveform import spread

        end = video.facts["duration_s"] if end_s is None else end_s
        if end <= start_s:
            raise ProblemError(422, "invalid-request", "end_s must be later than start_s")
        low, high = spread(service.media.peaks(video.path), start_s, end, count)
        return PeaksDocument(start_s=start_s, end_s=end, min=low, max=high)

    return await _made(service, request, video_id, make)


@router.get("/{video_id}/clip", response_class=FileResponse, dependencies=_VERSIONED)
async def get_clip(
    video_id: VideoId,
    service: ServiceOf,
    request: Request,
    start_s: StartS,
    end_s: Annotated[float, Query(gt=0, le=1e9, allow_inf_nan=False)],
) -> FileResponse:
    """Return a span as an mp4, exact to the frame."""

    def make(check: Check) -> Path:
        return service.media.clip(service.videos.source(video_id), start_s, end_s, check)

    path = await _in_threads(service, request, make)
    return FileResponse(path, media_type="video/mp4", headers=_KEPT)


@router.post(
    "/{video_id}/ground",
    response_model=AnswerBody,
    responses={409: {**PROBLEMS["default"], "description": "Not encoded; `job` encodes it."}},
)
async def ground_video(
    video_id: VideoId, body: GroundBody, service: ServiceOf, owner: Owner
) -> Response:
    """Find sentences in an encoded video, at once."""
    video = service.videos.get(video_id)
    try:
        if video.is_elsewhere or (video.url is not None and not video.facts):
            raise NotEncodedError  # the job that encodes it fetches it first
        if not video.facts or not video.path.is_file():
            video = await asyncio.to_thread(service.videos.there, video_id)
        predictions = await service.answerer.ask(Asked(video.path, body.model), body.queries)
    except NotEncodedError:
        job = service.encode_soon(video, owner=owner, model=body.model)
        raise ProblemError(
            409,
            "not-encoded",
            "the video is not encoded yet; ask again once this job is done",
            job=job.id,
            headers={"Location": f"/api/v1/jobs/{job.id}", "Retry-After": "5"},
        ) from None
    documents = [
        as_document(item, top_k=body.top_k, threshold=body.threshold, saliency=body.saliency)
        for item in predictions
    ]
    answer = {"video": video.id, "model": predictions[0].model, "predictions": documents}
    return Response(msgspec.json.encode(answer), media_type="application/json")


async def _made(
    service: Service, request: Request, video_id: str, make: Callable[[Video, Check], T]
) -> T:
    return await _in_threads(
        service, request, lambda check: make(service.videos.there(video_id), check)
    )


async def _in_threads(service: Service, request: Request, make: Callable[[Check], T]) -> T:
    """Make an image or a clip in threads of their own: slow ones do not hold up other requests.

    Args:
        service: whose threads.
        request: what it is made for.
        make: makes it; it gets what raises once the client has left, as a page does that scrolls.
    """
    try:
        await request.body()  # there is none; what comes after it says that the client has left
    except ClientDisconnect:
        raise _left() from None

    def check() -> None:
        if from_thread.run(request.is_disconnected):
            raise _left()

    return await to_thread.run_sync(make, check, limiter=service.media.threads)


def _left() -> ProblemError:
    return ProblemError(408, "client-left", "the client closed the connection before the answer")


def _document(service: Service, video: Video) -> VideoDocument:
    jobs = service.jobs.active("encode", video.id)
    return VideoDocument(**video.as_dict(jobs[0].id if jobs else None))
