"""Jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response
from starlette.responses import FileResponse, StreamingResponse

from r2rt.service.hub import as_sse
from r2rt.service.jobs.store import FINISHED, JobState
from r2rt.service.problems import ProblemError
from r2rt.service.routes.common import PROBLEMS, Owner, ServiceOf
from r2rt.service.schemas import JobBody, JobDocument
from r2rt.service.service import Service

router = APIRouter(prefix="/jobs", tags=["jobs"], responses=PROBLEMS)

JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
Key = Annotated[str | None, Header(min_length=1, max_length=200)]
_SSE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.post("", status_code=202)
def submit_job(
    body: JobBody,
    service: ServiceOf,
    owner: Owner,
    response: Response,
    idempotency_key: Key = None,
) -> JobDocument:
    """Submit a job; with the same Idempotency-Key it is submitted once, however often asked."""
    request = body.model_dump()
    ids = request.get("videos") or [request["video"]]
    for id_ in ids:
        service.videos.get(id_)
    job, _ = service.submit(
        body.kind,
        request,
        owner=owner,
        video=ids[0] if len(ids) == 1 else None,
        key=idempotency_key,
    )
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return JobDocument(**service.runner.document(job))


@router.get("")
def list_jobs(
    service: ServiceOf,
    state: JobState | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[JobDocument]:
    """Return the newest jobs; `result` is null here, GET /jobs/{job_id} has it."""
    return [
        JobDocument(**service.runner.document(job)) for job in service.jobs.all(state, limit=limit)
    ]


@router.get("/{job_id}")
def get_job(job_id: JobId, service: ServiceOf) -> JobDocument:
    """Return a job."""
    return JobDocument(**service.runner.document(service.jobs.get(job_id)))


@router.delete("/{job_id}")
def cancel_job(job_id: JobId, service: ServiceOf) -> JobDocument:
    """Cancel a job; one that is finished stays as it is."""
    return JobDocument(**service.runner.document(service.runner.cancel(job_id)))


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def job_events(job_id: JobId, service: ServiceOf) -> StreamingResponse:
    """Stream the job as server-sent events until it is finished.

    Events are `progress`, and at the end `done`, `failed` or `cancelled`; their data is the job.
    """
    service.jobs.get(job_id)
    return StreamingResponse(_events(service, job_id), media_type="text/event-stream", headers=_SSE)


async def _events(service: Service, job_id: str) -> AsyncIterator[bytes]:
    # Listening comes first, so that nothing happens between the state now and the next one.
    with service.hub.listening(f"job:{job_id}") as items:
        job = service.runner.document(service.jobs.get(job_id))
        yield _event(job)
        if job["state"] in FINISHED:
            return
        async for item in items:
            yield b": still here\n\n" if item is None else _event(item)
            if item is not None and item["state"] in FINISHED:
                return


def _event(job: dict[str, Any]) -> bytes:
    return as_sse(job["state"] if job["state"] in FINISHED else "progress", job)


@router.get("/{job_id}/files/{name}", response_class=FileResponse)
def get_job_file(job_id: JobId, name: str, service: ServiceOf) -> FileResponse:
    """Return a file that a job made."""
    job = service.jobs.get(job_id)
    listed = job.result.get("files", ()) if isinstance(job.result, dict) else ()
    if name not in {item["name"] for item in listed} or FilePath(name).name != name:
        raise ProblemError(404, "no-such-file", "the job made no file of this name")
    path = service.results / job.id / name
    if not path.is_file():
        raise ProblemError(410, "file-gone", "the file is not there any more")
    return FileResponse(path, filename=name)
