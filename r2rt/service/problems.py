"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from r2rt import errors
from r2rt.files import as_text

__all__ = ["ProblemError", "problem_response", "status_of"]

# What is wrong with the request, and what with the video that it names.
_BAD_REQUEST = (errors.QueryError,)
_NOT_FOUND = (errors.SourceNotFoundError, errors.ModelNotFoundError)
_UNUSABLE = (
    errors.NotAVideoError,
    errors.NoVideoStreamError,
    errors.NoFramesError,
    errors.EncodedVideoError,
    errors.ModelMismatchError,
    errors.MemoryLimitError,
)


class ProblemError(Exception):
    """A request that cannot be answered.

    Args:
        status: the HTTP status.
        code: a short name of the problem, for programs.
        detail: what was found, what was expected, what to do; one line.
        headers: headers of the response.
        more: further members of the document.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(status, code, detail)  # so that it can be pickled
        self.status, self.code, self.detail = status, code, detail
        self.headers = dict(headers or {})
        self.more = more

    def __str__(self) -> str:
        """Return the detail."""
        return self.detail

    @classmethod
    def fault(cls, error: Exception) -> ProblemError:
        """Return the problem of an error that was not foreseen."""
        return cls(500, "internal", f"a fault in r2rt itself ({type(error).__name__})")

    @classmethod
    def of(cls, error: errors.R2rtError) -> ProblemError:
        """Return the problem of an error of the runtime."""
        return cls(status_of(error), type(error).__name__, as_text(str(error)))

    def response(self) -> Response:
        """Return the document."""
        return problem_response(
            self.status, self.code, self.detail, headers=self.headers, **self.more
        )


def status_of(error: errors.R2rtError) -> int:
    """Return the HTTP status of an error of the runtime."""
    if isinstance(error, _NOT_FOUND):
        return 404
    if isinstance(error, _UNUSABLE):
        return 422
    if isinstance(error, _BAD_REQUEST):
        return 400
    if isinstance(error, errors.MissingExtraError):
        return 501
    return 503 if isinstance(error, errors.BackendUnavailableError | errors.OutputError) else 500


def problem_response(
    status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """Return a problem document; `more` are further members."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }
    return Response(
        msgspec.json.encode(document | more),
        status,
        headers=headers,
        media_type="application/problem+json",
    )
