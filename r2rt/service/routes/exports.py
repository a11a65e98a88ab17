"""Moments as files for other programs."""

from __future__ import annotations

from fastapi import APIRouter, Response

from r2rt.service.exports import export
from r2rt.service.routes.common import PROBLEMS, ServiceOf
from r2rt.service.schemas import ExportBody

router = APIRouter(tags=["exports"], responses=PROBLEMS)

_MEDIA = {".json": "application/json", ".csv": "text/csv; charset=utf-8", ".vtt": "text/vtt"}


@router.post("/export", response_class=Response)
def export_moments(body: ExportBody, service: ServiceOf) -> Response:
    """Return picked moments as subtitles, an edit list, markers or a table."""
    video = service.videos.known(body.video)
    name, text = export(video, body.format, [item.model_dump() for item in body.moments])
    kind = next((kind for end, kind in _MEDIA.items() if name.endswith(end)), "text/plain")
    return Response(
        text.encode(),
        media_type=kind,
        headers={"Content-Disposition": f"attachment; filename*=UTF-8''{_quoted(name)}"},
    )


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")
