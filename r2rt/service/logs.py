"""The service's log: lines of text or of JSON on stderr, each with its request's id."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextvars import ContextVar
from typing import Literal

from r2rt.printable import escape_controls

__all__ = ["LogFormat", "request_id", "start_logging"]

LogFormat = Literal["text", "json"]
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_EXTRA = ("route", "status", "took_s", "client")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
        }
        document |= {name: getattr(record, name) for name in _EXTRA if hasattr(record, name)}
        if record.exc_info:
            document["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(document)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = escape_controls(super().format(record))
        id_ = request_id.get()
        took = f" {1000 * record.took_s:.0f} ms" if hasattr(record, "took_s") else ""
        return f"{text}{took}{'' if id_ is None else f' [{id_}]'}"


def start_logging(format_: LogFormat, level: int) -> None:
    """Write what r2rt and uvicorn log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    text = _TextFormatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(_JsonFormatter() if format_ == "json" else text)
    for name in ("r2rt", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
