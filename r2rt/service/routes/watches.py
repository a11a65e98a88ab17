"""Live sources."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from r2rt.service.hub import as_sse
from r2rt.service.routes.common import PROBLEMS, ServiceOf
from r2rt.service.schemas import Id, Query
from r2rt.service.service import Service

router = APIRouter(prefix="/watches", tags=["watches"], responses=PROBLEMS)

WatchId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
_SSE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_ENDS = ("ended", "failed")


class WatchBody(BaseModel):
    """A source to watch, and what to watch for."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(
        min_length=1,
        max_length=2000,
        description="An address; or a file on the server, played from its start at its own rate.",
        examples=["rtsp://camera/stream"],
    )
    queries: Annotated[list[Query], Field(min_length=1, max_length=16)]
    model: str | None = Field(None, max_length=100)
    threshold: float = Field(0.5, ge=0, le=1, description="What a moment must score to open.")
    reconnect: int = Field(10, ge=0, le=1000, description="Tries in a row of a lost source.")
    window_s: float | None = Field(None, gt=0, le=3600)
    webhook: str | None = Field(None, max_length=2000, pattern=r"^https?://")


class WatchDocument(BaseModel):
    """A watch."""

    id: Id
    source: str = Field(description="Without user and password.")
    queries: list[str]
    unknown_words: Annotated[
        list[str],
        Field(
            description="Words of the queries that the model does not know; what they mean does "
            "not count. Empty if it does not list its words, or has not been loaded since the "
            "service started."
        ),
    ]
    state: Literal["running", "ended", "failed"]
    error: str | None
    events: int = Field(description="How many there were since the service started.")
    created_at: float


@router.get("")
def list_watches(service: ServiceOf) -> list[WatchDocument]:
    """Return all watches, the newest first."""
    return [WatchDocument(**item) for item in service.watches.all()]


@router.post("", status_code=201)
def add_watch(body: WatchBody, service: ServiceOf) -> WatchDocument:
    """Begin to watch a source; needs the scope `admin`."""
    return WatchDocument(**service.watches.add(body.model_dump()))


@router.get("/{watch_id}")
def get_watch(watch_id: WatchId, service: ServiceOf) -> WatchDocument:
    """Return a watch."""
    return WatchDocument(**service.watches.get(watch_id))


@router.delete("/{watch_id}", status_code=204)
def end_watch(watch_id: WatchId, service: ServiceOf) -> None:
    """End a watch and forget it; needs the scope `admin`."""
    service.watches.remove(watch_id)


@router.get(
    "/{watch_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def watch_events(
    watch_id: WatchId,
    service: ServiceOf,
    last_event_id: Annotated[int, Header(ge=0)] = 0,
) -> StreamingResponse:
    """Stream events as they come, after those that are kept and follow `Last-Event-ID`.

    Their names are those of `r2rt watch --json`: opened, changed, closed, dropped, retrying,
    reconnected; the last one is ended or failed.
    """
    service.watches.get(watch_id)
    stream = _events(service, watch_id, last_event_id)
    return StreamingResponse(stream, media_type="text/event-stream", headers=_SSE)


async def _events(service: Service, watch_id: str, after: int) -> AsyncIterator[bytes]:
    with service.hub.listening(f"watch:{watch_id}") as items:
        watch = service.watches.get(watch_id)
        for number, record in service.watches.events(watch_id, after):
            after = number
            yield _event(number, record)
            if record["event"] in _ENDS:
                return
        if watch["state"] in _ENDS:  # in the process before, or the client knows it already
            yield _event(after + 1, {"event": watch["state"], "error": watch["error"]})
            return
        async for item in items:
            if item is None:
                yield b": still here\n\n"
                continue
            number, record = item
            if number > after:  # else it was among those that are kept
                yield _event(number, record)
            if record["event"] in _ENDS:
                return


def _event(number: int, record: dict[str, Any]) -> bytes:
    return as_sse(record["event"], record, number=number)
