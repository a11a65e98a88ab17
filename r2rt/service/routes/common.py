"""What addresses share: the service, who asks, and how errors are documented."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Request

from r2rt.service.schemas import ProblemDocument
from r2rt.service.service import Service

__all__ = ["PROBLEMS", "Owner", "ServiceOf", "VideoId"]

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "model": ProblemDocument,
        "description": "A problem document (RFC 9457).",
        "content": {"application/problem+json": {}},
    }
}


# Asynchronous, or each request would go through two further threads.
async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _owner(request: Request) -> str:
    owner: str = getattr(request.state, "owner", "local")
    return owner


ServiceOf = Annotated[Service, Depends(_service)]
Owner = Annotated[str, Depends(_owner)]
VideoId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
