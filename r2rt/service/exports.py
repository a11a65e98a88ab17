"""Moments that somebody picked, in every format of `r2rt.outputs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from r2rt.errors import QueryError
from r2rt.grounding.prediction import Moment, Prediction, Timings
from r2rt.outputs.answers import Answers
from r2rt.outputs.formats import FORMATS
from r2rt.service.videos import Video

__all__ = ["as_predictions", "export"]


def as_predictions(video: Video, moments: Sequence[Mapping[str, Any]]) -> list[Prediction]:
    """Return one prediction a query with the moments that were picked, in their order.

    Raises:
        QueryError: a moment ends before it starts, or begins after the video's end.
    """
    duration_s = float(video.facts.get("duration_s") or 0.0)
    found: dict[str, list[Moment]] = {}
    for item in moments:
        start_s, end_s = item["start_s"], item["end_s"]
        if not start_s < end_s:
            raise QueryError(f"a moment from {start_s:g} to {end_s:g} s; its end must be later")
        if duration_s and start_s >= duration_s:
            raise QueryError(f"a moment at {start_s:g} s of a video that lasts {duration_s:g} s")
        moment = Moment(start_s=start_s, end_s=end_s, score=item.get("score", 1.0))
        found.setdefault(item["query"], []).append(moment)
    return [
        Prediction(
            query=query,
            moments=tuple(picked),
            saliency=np.zeros(0, np.float32),
            clip_starts_s=np.zeros(0),
            boundaries=np.zeros((0, 3)),
            query_truncated=False,
            video=str(video.path),
            duration_s=duration_s,
            fps=Fraction(1, 2),
            sampling="exact",
            model="",
            timings=Timings(encode_s=0.0, text_s=0.0, ground_s=0.0),
        )
        for query, picked in found.items()
    ]


def export(video: Video, format_: str, moments: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the name and the text of a file that holds moments.

    Raises:
        QueryError: there is no such format, or a moment is no span of the video.
        R2rtError: the format counts frames and the video cannot be read.
    """
    from r2rt.media.names import slug

    if format_ not in FORMATS:
        raise QueryError(f"no format {format_!r}; there are {', '.join(FORMATS)}")
    predictions = as_predictions(video, moments)
    answers = Answers(
        video=str(video.path),
        predictions=tuple(predictions),
        qids=tuple(range(1, len(predictions) + 1)),
    )
    name = slug(Path(video.name).stem, empty="video") + FORMATS[format_].suffix
    return name, FORMATS[format_].render(answers)
