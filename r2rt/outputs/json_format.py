"""JSON: one document with everything but the raw boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from r2rt.files import as_text
from r2rt.grounding.prediction import Prediction
from r2rt.outputs.answers import Answers
from r2rt.outputs.text import escape_controls

__all__ = ["error_record", "render", "render_all"]


def render(answers: Answers) -> str:
    """Return the document about one video: its facts, and `results`, one a query."""
    return _text(_document(answers))


def render_all(answers: Sequence[Answers]) -> str:
    """Return `{"videos": [...]}`, a document each; of one that failed, `video` and `error`."""
    return _text({"videos": [_document(item) for item in answers]})


def error_record(answers: Answers) -> dict[str, Any]:
    """Return what is told of a video that failed: kind of error, exit code and message."""
    error = answers.error
    assert error is not None
    return {"kind": type(error).__name__, "code": error.exit_code, "message": as_text(str(error))}


def _text(document: dict[str, Any]) -> str:
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    return escape_controls(text) + "\n"


def _document(answers: Answers) -> dict[str, Any]:
    if answers.error is not None:
        return {"video": as_text(answers.video), "error": error_record(answers)}
    first = answers.predictions[0]
    return {
        "video": as_text(first.video),
        "duration_s": first.duration_s,
        "fps": str(first.fps),
        "sampling": first.sampling,
        "departures": first.departures.as_dict(),
        "model": first.model,
        "timings": first.timings,
        "results": [
            _result(prediction, qid)
            for prediction, qid in zip(answers.predictions, answers.qids, strict=True)
        ],
    }


def _result(prediction: Prediction, qid: int | str) -> dict[str, Any]:
    return {
        "qid": qid,
        "query": prediction.query,
        "query_truncated": prediction.query_truncated,
        "present": prediction.present,
        "presence_score": prediction.presence_score,
        "moments": prediction.moments,
        "saliency": [
            {"start_s": start, "score": round(score, 6)}
            for start, score in zip(
                prediction.clip_starts_s.tolist(), prediction.saliency.tolist(), strict=True
            )
        ],
    }
