"""The interface on one page, made of its OpenAPI document, without scripts."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

__all__ = ["describe_problems", "router"]

router = APIRouter(tags=["operation"])


@router.get("/docs", response_class=HTMLResponse, include_in_schema=False)
def documentation(request: Request) -> HTMLResponse:
    """Return every address with what it takes and answers."""
    document = request.app.openapi()
    sections = [
        _operation(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return HTMLResponse(
        "<!doctype html><html lang=en><meta charset=utf-8><title>r2rt: the interface</title>"
        "<meta name=viewport content='width=device-width'>"
        "<h1>r2rt: the interface</h1><p><a href=/openapi.json>OpenAPI document</a></p>"
        + "".join(sections)
    )


def describe_problems(document: dict[str, Any]) -> dict[str, Any]:
    """Give problem documents their own type, which FastAPI documents as `application/json`."""
    for methods in document["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                content = response.get("content", {})
                if "application/problem+json" in content:
                    content["application/problem+json"] = content.pop("application/json")
    return document


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    parameters = "".join(
        f"<li><code>{escape(item['name'])}</code> ({escape(item['in'])})"
        f"{', required' if item.get('required') else ''}</li>"
        for item in operation.get("parameters", ())
    )
    body = operation.get("requestBody", {}).get("content", {})
    schemas = {
        name: content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        for name, content in body.items()
    }
    sent = "".join(f"<p>Body: {escape(kind)} {escape(name)}</p>" for kind, name in schemas.items())
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
        f"<p>{escape(operation.get('description', ''))}</p><ul>{parameters}</ul>{sent}"
    )
