"""The page: static files, which need no token."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import APIRouter, FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

__all__ = ["add_page"]

_FOLDER = Path(__file__).resolve().parents[1] / "page"
_CHECK_AGAIN = {"Cache-Control": "no-cache"}  # the files change with the version of r2rt
# What Python guesses may come from Windows' registry; browsers run no script of another type.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing but the page's own files, nothing inline, and no text becomes markup.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

_router = APIRouter(include_in_schema=False)


def add_page(app: FastAPI) -> None:
    """Add the page at `/` and its files below `/static/`."""
    app.include_router(_router)
    app.mount("/static", _Static(directory=_FOLDER))


@_router.get("/", response_class=FileResponse)
def get_page() -> FileResponse:
    """Return the page."""
    return FileResponse(
        _FOLDER / "index.html",
        media_type="text/html",
        headers={**_CHECK_AGAIN, "Content-Security-Policy": _POLICY},
    )


class _Static(StaticFiles):
    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Return a file, which browsers check for changes each time."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_CHECK_AGAIN)
        known = _TYPES.get(Path(full_path).suffix)
        if known and "content-type" in response.headers:  # which an answer of 304 leaves out
            response.headers["content-type"] = known
        return response
