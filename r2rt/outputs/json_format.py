"""JSON: one document with everything but the raw boundaries.

`schema/answers.schema.json` in this folder describes it; `schema_version` is its version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from r2rt.files import as_text
from r2rt.grounding.prediction import SCHEMA_VERSION
from r2rt.outputs.answers import Answers
from r2rt.printable import escape_controls

__all__ = ["error_record", "render", "render_all"]


def render(answers: Answers) -> str:
    """Return the document about one video: its facts, and `results`, one a query."""
    return _text(_document(answers))


def render_all(answers: Sequence[Answers]) -> str:
    """Return `{"schema_version": ..., "videos": [...]}` with a document for each video.

    That of a video that failed has `video` and `error`.
    """
    documents = [_document(item) for item in answers]
    return _text({"schema_version": SCHEMA_VERSION, "videos": documents})


def error_record(answers: Answers) -> dict[str, Any]:
    """Return the record of a video that failed: kind of error, exit code and message."""
    error = answers.error
    assert error is not None
    return {"kind": type(error).__name__, "code": error.exit_code, "message": as_text(str(error))}


def _text(document: dict[str, Any]) -> str:
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    return escape_controls(text) + "\n"


def _document(answers: Answers) -> dict[str, Any]:
    if answers.error is not None:
        failed = {"video": as_text(answers.shown), "error": error_record(answers)}
        return {"schema_version": SCHEMA_VERSION} | failed
    answered = zip(answers.predictions, answers.qids, strict=True)
    results = [prediction.result(qid) for prediction, qid in answered]
    return answers.predictions[0].to_dict() | {"results": results}
