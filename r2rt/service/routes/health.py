"""Whether the service runs, and whether it answers."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from r2rt.service.problems import problem_response
from r2rt.service.routes.common import ServiceOf

router = APIRouter(tags=["operation"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Return at once: the process runs and serves requests."""
    return {"status": "ok"}


@router.get("/readyz", response_model=None)
async def readyz(service: ServiceOf) -> dict[str, str] | Response:
    """Answer a query about a made-up video; 503 where that does not work."""
    try:
        await asyncio.to_thread(service.computing.check)
    except Exception as error:
        return problem_response(503, "not-ready", f"{type(error).__name__}: {error}")
    return {"status": "ready"}


@router.get("/metrics", response_class=Response)
def metrics(service: ServiceOf) -> Response:
    """Return figures in Prometheus' format."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
