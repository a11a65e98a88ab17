"""The page: static files, which need no token."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

__all__ = ["add_page"]

_FOLDER = Path(__file__).resolve().parents[1] / "page"
_CHECK_AGAIN = {"Cache-Control": "no-cache"}  # the files change with the version of r2rt
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
        _FOLDER / "index.html", headers={**_CHECK_AGAIN, "Content-Security-Policy": _POLICY}
    )


class _Static(StaticFiles):
    def file_response(self, *args: object, **options: object) -> Response:
        """Return a file, which browsers check for changes each time."""
        response = super().file_response(*args, **options)  # type: ignore[arg-type]
        response.headers.update(_CHECK_AGAIN)
        return response
