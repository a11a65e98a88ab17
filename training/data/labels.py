"""From an annotation to what the losses read, by the rules of its data set.

As the authors' data sets do it, in fp32: moments are cut at the video's ends, ends in the wrong
order are swapped, and a moment shorter than a clip becomes one clip around its middle. Where there
are no ratings, a clip that begins inside a moment is salient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.data.annotation import SAME_CLIPS, Annotation
from training.data.errors import FeatureError

__all__ = ["ClipLabels", "clip_labels", "has_relevant_clip", "moments_in_video"]

_YOUTUBE_RELEVANT = 0.5


@dataclass(frozen=True, kw_only=True)
class ClipLabels:
    """Labels of a video of T clips.

    Attributes:
        clips: T; fewer than the video has where its ratings end before it.
        moments_s: (G, 2) float32 seconds; None where clips alone are rated.
        saliency: (T,) float32, 0..1.
        relevant_clips: indices of the clips to learn from, (R,) int64; none without labels.
    """

    clips: int
    moments_s: Tensor | None
    saliency: Tensor
    relevant_clips: Tensor


def clip_labels(annotation: Annotation, clips: int, fps: float) -> ClipLabels:
    """Label the clips of a video.

    Args:
        annotation: what is known of the query.
        clips: clips that the video's features have.
        fps: clips a second.

    Raises:
        FeatureError: ratings and features differ by more clips than rounding explains.
    """
    if annotation.labels != "grounding":
        return _rated_clips(annotation, clips)
    moments_s = None
    inside = torch.zeros(clips)
    if annotation.moments_s is not None:
        moments_s = moments_in_video(annotation.moments_s, clips, fps)
        inside = _inside(moments_s, clips, fps)
    saliency = inside
    if annotation.saliency is not None:
        saliency = torch.zeros(clips)
        rated = torch.from_numpy(annotation.saliency[:clips].astype(np.float32))
        saliency[: len(rated)] = rated
    relevant = saliency.nonzero()[:, 0]
    if not len(relevant):
        # Rated 0 throughout: only the moments say what is relevant.
        relevant = inside.nonzero()[:, 0]
    if not len(relevant) and annotation.saliency is not None and annotation.saliency.any():
        # Only a clip that is cut off at the end is rated; the last whole one is next to it.
        relevant = torch.tensor([clips - 1])
    return ClipLabels(clips=clips, moments_s=moments_s, saliency=saliency, relevant_clips=relevant)


def has_relevant_clip(annotation: Annotation) -> bool:
    """Whether training finds a clip that stands for the query."""
    if annotation.saliency is None or annotation.labels == "grounding":
        return annotation.moments_s is not None or (
            annotation.saliency is not None and bool(annotation.saliency.any())
        )
    return bool(len(_rated_clips(annotation, len(annotation.saliency)).relevant_clips))


def moments_in_video(moments_s: tuple[tuple[float, float], ...], clips: int, fps: float) -> Tensor:
    """Return moments in order, inside the video and a clip long or more, (G, 2) float32.

    Args:
        moments_s: start and end in seconds.
        clips: clips of the video.
        fps: clips a second.
    """
    last_s, half_s = clips / fps, 0.5 / fps
    moments = torch.tensor(moments_s, dtype=torch.float32).clamp(min=0, max=last_s)
    moments = moments.sort(dim=1).values
    short = moments[:, 1] - moments[:, 0] < 1 / fps
    middle = (moments.sum(dim=1) / 2).clamp(min=half_s, max=last_s - half_s)
    widened = torch.stack((middle - half_s, middle + half_s), dim=1)
    return torch.where(short[:, None], widened, moments)


def _inside(moments_s: Tensor, clips: int, fps: float) -> Tensor:
    """(T,) 1 for the clips that begin inside a moment, of which each moment has one or more."""
    inside = torch.zeros(clips)
    for start, end in (moments_s * fps).tolist():
        first = min(math.ceil(start), clips - 1)
        inside[first : max(math.ceil(end), first + 1)] = 1
    return inside


def _rated_clips(annotation: Annotation, clips: int) -> ClipLabels:
    if annotation.saliency is None:
        return ClipLabels(
            clips=clips,
            moments_s=None,
            saliency=torch.zeros(clips),
            relevant_clips=torch.zeros(0, dtype=torch.int64),
        )
    rated = len(annotation.saliency)
    if abs(clips - rated) > SAME_CLIPS:
        raise FeatureError(
            f"video {annotation.vid!r} has features of {clips} clips and ratings of {rated}; "
            "extract features at the rate of the ratings"
        )
    clips = min(clips, rated)
    whole = torch.from_numpy(annotation.saliency.copy())
    saliency = whole[:clips]
    relevant = _above_others(annotation, saliency)
    if not len(relevant) and len(_above_others(annotation, whole)):
        # Only clips behind the last one that has features; that is next to them.
        relevant = torch.tensor([clips - 1])
    return ClipLabels(clips=clips, moments_s=None, saliency=saliency, relevant_clips=relevant)


def _above_others(annotation: Annotation, saliency: Tensor) -> Tensor:
    """Indices of the clips to learn from, (R,)."""
    # torch's median of an even number is the lower one of the two in the middle.
    least = saliency.median().item() if annotation.labels == "tvsum" else _YOUTUBE_RELEVANT
    return (saliency > least).nonzero()[:, 0]
