"""Spans for OpenTelemetry; they go nowhere unless its SDK is set up."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from opentelemetry import trace
from opentelemetry.propagate import extract

__all__ = ["ended", "request_span", "span"]

_tracer = trace.get_tracer("r2rt")


def request_span(
    method: str, path: str, headers: Mapping[str, str]
) -> AbstractContextManager[trace.Span]:
    """Trace a request, as part of the caller's trace if its headers name one.

    Attributes are those of OpenTelemetry's conventions for HTTP; the block adds the route and the
    status by `ended`.
    """
    attributes = {"http.request.method": method, "url.path": path}
    return _tracer.start_as_current_span(
        method, context=extract(headers), kind=trace.SpanKind.SERVER, attributes=attributes
    )


def ended(current: trace.Span, method: str, route: str, status: int) -> None:
    """Note how a request ended."""
    if current.is_recording():
        current.update_name(f"{method} {route}")
        current.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            current.set_status(trace.StatusCode.ERROR)


def span(name: str, **attributes: str | int) -> AbstractContextManager[trace.Span]:
    """Trace a part of the work."""
    return _tracer.start_as_current_span(name, attributes=attributes)
