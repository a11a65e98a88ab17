"""What people say about a video: a query, its moments, and how well each clip fits."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["SAME_CLIPS", "Annotation", "Labels", "Problem"]

SAME_CLIPS = 4
"""Labels and frames of a video may differ by this many clips, as in the published features."""

Labels = Literal["grounding", "tvsum", "youtube"]
"""By whose rules saliency becomes labels: moments with or without saliency, TVSum's, YouTube's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotation:
    """One query of one video, as annotated: in seconds and clips, whatever file it came from.

    Attributes:
        qid: id of the query.
        vid: id of the video; its features are called so.
        query: the sentence.
        duration_s: length of the video in seconds; None if the file does not say.
        moments_s: start and end of each moment, in seconds; None where there are none to learn.
        saliency: how well each clip from the first on fits, 0..1; clips beyond it count as 0. None
            where moments alone are annotated.
        labels: the rules that the clips to learn from are chosen by.
        fps: clips a second, where the labels fix it; None where the recipe decides.
        domain: the data set's own part that it belongs to.
        place: its place in the file: the line's number, or a key.
        has_id: whether the file says the qid; where it does not, it is the line's number.
    """

    qid: int | str
    vid: str
    query: str
    duration_s: float | None
    moments_s: tuple[tuple[float, float], ...] | None
    saliency: NDArray[np.float32] | None
    labels: Labels
    fps: Fraction | None
    domain: str | None
    place: str
    has_id: bool = True


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with an annotation file.

    Attributes:
        kind: name of the sort of problem; see `training.data.checks.KINDS`.
        path: the file.
        place: line's number, or key, in it; None for the whole file.
        field: which field, such as `relevant_windows[1]`; None for the whole line.
        message: what was found, what was expected, what to do.
        severity: an `error` keeps the file from being accepted, a `warning` does not.
        repair: what training does with it, as the authors' code does; None where it cannot.
    """

    kind: str
    path: str
    place: str | None
    field: str | None
    message: str
    severity: Literal["error", "warning"] = "error"
    repair: str | None = None

    def __str__(self) -> str:
        where = self.path if self.place is None else f"{self.path}:{self.place}"
        what = f"{self.field}: {self.message}" if self.field else self.message
        return f"{where}: {self.severity}: {what}"
