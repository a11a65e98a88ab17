"""Options of `Grounder.encode` and `Grounder.ground`: types, and a check of their names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from r2rt.grounding.windows import WindowLength
    from r2rt.model.manifest import Nms
    from r2rt.video import Decoder, Sampling

__all__ = ["ENCODE_DEFAULTS", "AnswerOptions", "EncodeOptions", "GroundOptions", "check_names"]


class EncodeOptions(TypedDict, total=False):
    """Keyword arguments of `Grounder.encode`, described there."""

    sampling: Sampling
    tolerance_s: float | None
    start_s: float | None
    end_s: float | None
    source_fps: Fraction | float | None
    skip_similar: float
    video_track: int | None
    decoder: Decoder
    compact: bool


ENCODE_DEFAULTS: EncodeOptions = {
    "sampling": "exact",
    "tolerance_s": None,
    "start_s": None,
    "end_s": None,
    "source_fps": None,
    "skip_similar": 0.0,
    "video_track": None,
    "decoder": "auto",
    "compact": False,
}
"""What `Grounder.encode` takes for an option that is not given."""


class AnswerOptions(TypedDict, total=False):
    """Keyword arguments of `Grounder.ground` for a video that is already encoded."""

    top_k: int | None
    min_score: float
    nms: Nms | Literal["model", "none"]
    window: WindowLength
    overlap: float | None


class GroundOptions(AnswerOptions, EncodeOptions, total=False):
    """All keyword arguments of `Grounder.ground`, described there."""


def check_names(function: str, given: Iterable[str], options: type[EncodeOptions]) -> None:
    """Raise `TypeError` for the first name that is not an option, with the closest one that is.

    Args:
        function: the function that was called, for the message.
        given: names of keyword arguments.
        options: the `TypedDict` that lists the options.
    """
    known = list(GroundOptions.__annotations__)
    for name in given:
        if name in options.__annotations__:
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"options are {', '.join(known)}"
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}; {hint}")
