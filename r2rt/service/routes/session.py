"""The page's way to send a token where a browser sends no header: images and video."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from r2rt.service.guard import COOKIE
from r2rt.service.problems import ProblemError
from r2rt.service.routes.common import PROBLEMS, ServiceOf

router = APIRouter(prefix="/session", tags=["session"], responses=PROBLEMS)


class SessionBody(BaseModel):
    """A token."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(min_length=1, max_length=200)


class SessionDocument(BaseModel):
    """Whether a token is needed, and what the one that is held allows."""

    needs_token: bool
    name: str | None
    scopes: list[str]


@router.get("")
def get_session(request: Request, service: ServiceOf) -> SessionDocument:
    """Return whether a token is needed, and whose the one of the cookie is."""
    needed = service.needs_token
    client = service.tokens.client(request.cookies.get(COOKIE, "")) if needed else None
    return SessionDocument(
        needs_token=needed,
        name=None if client is None else client.name,
        scopes=[] if client is None else sorted(client.scopes),
    )


@router.post("", status_code=204)
def begin_session(
    body: SessionBody, request: Request, service: ServiceOf, response: Response
) -> None:
    """Keep a token in a cookie that scripts cannot read and other sites cannot use."""
    if service.tokens.client(body.token) is None:
        # Wrong ones alone count: behind a proxy all clients have one address.
        address = request.client.host if request.client else "unknown"
        if not service.may_try(address):
            raise ProblemError(429, "too-many-requests", "too many wrong tokens; try again later")
        raise ProblemError(401, "token-wrong", "no such token")
    # What the browser speaks, which is not what a proxy in between speaks to this service.
    secure = request.headers.get("origin", "").startswith("https:")
    response.set_cookie(COOKIE, body.token, httponly=True, samesite="strict", secure=secure)


@router.delete("", status_code=204)
def end_session(response: Response) -> None:
    """Forget the token."""
    response.delete_cookie(COOKIE)
