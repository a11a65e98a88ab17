"""JSON lines of a QVHighlights submission: one a query.

The video's id is its file name without the suffix, as in that data set's annotations.
`schema/submission.schema.json` in this folder describes a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import msgspec

from r2rt.files import as_text
from r2rt.grounding.prediction import Prediction
from r2rt.outputs.answers import Answers
from r2rt.outputs.json_format import error_record
from r2rt.printable import escape_controls
from r2rt.video.remote import plain_path

__all__ = ["render", "render_all"]


def render(answers: Answers) -> str:
    """Return a line a query; of a video that failed, one line with `vid` and `error`."""
    if answers.error is not None:
        return _line({"vid": _vid(answers.shown), "error": error_record(answers)})
    return "".join(
        _line(_submission(prediction, qid))
        for prediction, qid in zip(answers.predictions, answers.qids, strict=True)
    )


def render_all(answers: Sequence[Answers]) -> str:
    """Return the lines of all videos in order."""
    return "".join(render(item) for item in answers)


def _vid(video: str) -> str:
    return as_text(PurePath(plain_path(video)).stem)


def _line(record: dict[str, Any]) -> str:
    return escape_controls(msgspec.json.encode(record).decode()) + "\n"


def _submission(prediction: Prediction, qid: int | str) -> dict[str, Any]:
    return {
        "qid": qid,
        "query": prediction.query,
        "vid": _vid(prediction.video),
        "pred_relevant_windows": [
            [round(m.start_s, 4), round(m.end_s, 4), round(m.score, 4)] for m in prediction.moments
        ],
        "pred_saliency_scores": [round(score, 4) for score in prediction.saliency.tolist()],
    }
