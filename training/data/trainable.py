"""Whether training can use annotations: of one sort, with a clip to learn from, in long videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

from training.data.annotation import SAME_CLIPS, Annotation, Problem

__all__ = ["check_trainable", "largest_difference"]

# How far a video's length and its features' may differ, as a share of its clips.
_SAME_SHARE = Fraction(1, 10)


def largest_difference(annotation: Annotation, fps: Fraction) -> Fraction:
    """Return by how many clips a video's features may differ from its annotated length.

    Args:
        annotation: of known duration.
        fps: clips a second.
    """
    clips = Fraction(annotation.duration_s or 0) * fps
    if annotation.labels != "grounding":
        return Fraction(SAME_CLIPS)
    return max(Fraction(SAME_CLIPS), _SAME_SHARE * clips)


def check_trainable(
    path: str,
    annotations: Sequence[Annotation],
    length_s: Callable[[str], float | None],
    min_video_s: float,
) -> Iterator[Problem]:
    """Yield what keeps training from a file whose records are sound.

    Args:
        path: the file, as problems name it.
        annotations: one or more.
        length_s: length of a video in seconds by its id, None where unknown.
        min_video_s: shorter videos are not trained on, in seconds.
    """
    # PyTorch, which the command that validates does without otherwise.
    from training.data.labels import has_relevant_clip

    first = annotations[0]
    for each in annotations:
        if (each.moments_s is None) != (first.moments_s is None):
            has, other = ("no ", "has") if each.moments_s is None else ("", "has none")
            yield Problem(
                kind="mixed-labels",
                path=path,
                place=each.place,
                field="relevant_windows",
                message=f"{has}moments, line {first.place} {other}; give all queries moments, or "
                "none",
            )
            break
    learned = []
    for each in annotations:
        if has_relevant_clip(each):
            learned.append(each)
            continue
        yield Problem(
            kind="nothing-relevant",
            path=path,
            place=each.place,
            field=None,
            message="no clip is rated above the others; it is not trained on",
            severity="warning",
        )
    lengths = (length_s(a.vid) if a.duration_s is None else a.duration_s for a in learned)
    if not any(length is None or length >= min_video_s for length in lengths):
        yield Problem(
            kind="nothing-to-train-on",
            path=path,
            place=None,
            field=None,
            message=f"no query with a clip to learn from in a video of {min_video_s:g} s or more; "
            "add some",
        )
