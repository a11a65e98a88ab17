"""The ASGI application of a service."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from r2rt.errors import R2rtError
from r2rt.retry import TransientError
from r2rt.service.computing import Computing
from r2rt.service.guard import Guard
from r2rt.service.mcp.server import http_routes, mcp_server, running
from r2rt.service.problems import ProblemError, problem_response
from r2rt.service.routes import (
    corrections,
    documentation,
    exports,
    health,
    jobs,
    models,
    search,
    session,
    uploads,
    videos,
    watches,
)
from r2rt.service.routes.page import add_page
from r2rt.service.service import Service
from r2rt.service.settings import Settings

__all__ = ["create_app"]

_log = logging.getLogger(__name__)
_PREFIX = "/api/v1"
_CODES = {404: "no-such-address", 405: "method-not-allowed", 408: "too-slow", 413: "too-large"}


def create_app(settings: Settings, computing: Computing | None = None) -> FastAPI:
    """Return the application; its lifespan opens and closes the service.

    Args:
        settings: how the service is set up.
        computing: what computes; this process if None.

    Raises:
        ServiceStateError: see `Service`.
    """
    service = Service(settings, computing)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.open()
        try:
            async with running(tools):
                yield
        finally:
            await service.close()

    app = _Application(
        title="r2rt",
        version=importlib.metadata.version("r2rt"),
        summary="Finds moments in videos from a sentence.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(R2rtError, _runtime_error)
    app.add_exception_handler(TransientError, _transient)
    app.add_exception_handler(sqlite3.OperationalError, _unwritable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    for module in (session, models, videos, uploads, corrections, jobs, exports, search, watches):
        app.include_router(module.router, prefix=_PREFIX)
    app.include_router(health.router)
    app.include_router(documentation.router)
    add_page(app)
    tools = mcp_server(app)
    app.router.routes.extend(http_routes(tools))
    app.add_middleware(
        Guard,
        settings=settings,
        tokens=service.tokens,
        observe=service.metrics.request,
    )
    return app


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            documentation.describe_problems(super().openapi())
        return super().openapi()


def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return error.response()


def _runtime_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, R2rtError)
    return ProblemError.of(error).response()


def _transient(_: Request, error: Exception) -> Response:
    return problem_response(503, "try-again", str(error), headers={"Retry-After": "5"})


def _unwritable(_: Request, error: Exception) -> Response:
    return problem_response(
        503,
        "state-unwritable",
        f"the service's database cannot be used ({error}); try again later",
        headers={"Retry-After": "60"},
    )


def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        {"field": ".".join(map(str, item["loc"])), "message": item["msg"]}
        for item in error.errors()[:20]
    ]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in found[:3])
    return problem_response(422, "invalid-request", detail, errors=found)


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "http-error")
    return problem_response(
        error.status_code, code, str(error.detail), headers=dict(error.headers or {})
    )
