"""Which videos are trained on, and which are kept to evaluate on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from r2rt.files import replacing
from training.data.annotation import Annotation
from training.data.errors import AnnotationError
from training.data.videos import VideoFolder

__all__ = ["split_by_video", "write_annotations"]

# One video in so many is kept.
_SHARE = 5


def split_by_video(
    annotations: Sequence[Annotation], seed: int
) -> tuple[list[Annotation], list[Annotation]]:
    """Return annotations to train on and, of one video in five, to evaluate on.

    A video's place follows from its name and the seed, so other videos do not move it far.

    Raises:
        AnnotationError: there is one video alone.
    """
    vids = {annotation.vid for annotation in annotations}
    if len(vids) < 2:
        raise AnnotationError(
            f"one video, {min(vids)!r}, cannot be split into videos to train on and to evaluate "
            "on; annotate another one"
        )
    order = sorted(vids, key=lambda vid: hashlib.sha256(f"{seed}/{vid}".encode()).digest())
    kept = set(order[: max(1, len(order) // _SHARE)])
    train = [annotation for annotation in annotations if annotation.vid not in kept]
    return train, [annotation for annotation in annotations if annotation.vid in kept]


def write_annotations(
    path: Path, annotations: Sequence[Annotation], videos: VideoFolder, fps: Fraction
) -> None:
    """Write annotations of moments, read at `fps`, as jsonl lines, with each video's length."""
    durations_s = _durations_s(annotations, videos)
    lines = []
    for each in annotations:
        row: dict[str, object] = {"qid": each.qid, "vid": each.vid, "query": each.query}
        duration_s = durations_s.get(each.vid)
        if duration_s is not None:
            row["duration"] = round(duration_s, 3)
        row["relevant_windows"] = each.moments_s
        if each.saliency is not None:
            saliency = [round(float(value), 6) for value in each.saliency]
            if duration_s is not None:
                # Clips behind the last rated one count as 0.
                saliency += [0.0] * (math.ceil(duration_s * fps) - len(saliency))
            row["saliency"] = saliency
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    with replacing(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _durations_s(annotations: Sequence[Annotation], videos: VideoFolder) -> dict[str, float]:
    """Length of each video in seconds, by its id; none of videos that do not say theirs.

    Lines that do not say it were checked with the file's, and those that call the video by another
    name may say another: the longest of them holds what all lines annotate.
    """
    found: dict[str, float] = {}
    for vid, given in {(each.vid, each.duration_s) for each in annotations}:
        length_s = videos.duration_s(videos.candidates(vid)[0]) if given is None else given
        if length_s is not None:
            found[vid] = max(length_s, found.get(vid, 0.0))
    return found
