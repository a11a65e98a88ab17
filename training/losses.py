"""The losses of R²-Tuning (Liu et al., arXiv 2404.00801), by name.

With a coordinate head: `loss_reg`, `loss_cls`, `loss_sal`, `loss_video_cal`, `loss_layer_cal`;
their sum is what is minimised. Without one there is no `loss_reg`, `loss_cls` is the cross-entropy
of the clips' saliency, and `loss_sal` contrasts a query with clips only, not a clip with queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.model import Padding, R2Output, R2Tuning

__all__ = [
    "LossTargets",
    "LossWeights",
    "calibration_loss",
    "compute_losses",
    "focal_loss",
    "point_targets",
    "sampled_nce",
]

_FOCAL_GAMMA = 2.0
_SAMPLE_RADIUS = 1.5
_TEMPERATURE = 0.07


@dataclass(frozen=True, kw_only=True)
class LossTargets:
    """What a batch should have been answered with.

    Attributes:
        saliency: saliency of each clip, 0..1, (B, T).
        pos_clip: a clip that belongs to the query, (B,), integral.
        boundary_s: moments' start and end in seconds, (B, G, 2), padded with inf; None for a model
            without a coordinate head.
        fps: clips a second of each video, (B,).
    """

    saliency: Tensor
    pos_clip: Tensor
    boundary_s: Tensor | None = None
    fps: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """The factor of each loss term; the defaults are QVHighlights'."""

    cls: float = 1.0
    reg: float = 0.2
    sal: float = 0.1
    video_cal: float = 0.1
    layer_cal: float = 0.1


def compute_losses(
    model: R2Tuning, output: R2Output, targets: LossTargets, weights: LossWeights | None = None
) -> dict[str, Tensor]:
    """Return every loss term of a batch, weighted, by name.

    Args:
        model: the model that made the output, for its 1 / τ and what its padding means.
        output: of a batch.
        targets: what it should have been.
        weights: factors of the terms.

    Raises:
        ValueError: the model has a coordinate head and the targets have no moments.
    """
    weights = LossWeights() if weights is None else weights
    losses: dict[str, Tensor] = {}
    if output.offsets is None:
        # One level of stride 1: a point is a clip.
        losses["loss_cls"] = weights.cls * _masked_mean(
            F.binary_cross_entropy_with_logits(
                output.class_logits, targets.saliency, reduction="none"
            ),
            output.point_mask,
        )
    else:
        if targets.boundary_s is None or targets.fps is None:
            raise ValueError("a model with a coordinate head needs boundary_s and fps as targets")
        boundary = targets.boundary_s * targets.fps[:, None, None]
        positive, distances = point_targets(output.points, output.point_strides, boundary)
        if model.config.padding is Padding.EXACT:
            # The published training regresses points behind a video's end too, which a moment that
            # ends there may reach, but does not classify them.
            positive = positive & output.point_mask
        losses["loss_reg"] = weights.reg * _masked_mean(
            (output.offsets - distances).abs(), positive[..., None].expand_as(distances)
        )
        losses["loss_cls"] = weights.cls * _masked_mean(
            focal_loss(output.class_logits, positive.to(output.class_logits.dtype)),
            output.point_mask,
        )
    losses["loss_sal"] = weights.sal * sampled_nce(
        output.video_emb,
        output.query_emb,
        output.video_mask,
        targets.saliency,
        targets.pos_clip,
        model.similarity_scale,
        across_batch=output.offsets is not None,
    )
    # (K, B, D)
    batch = torch.arange(len(targets.pos_clip), device=targets.pos_clip.device)
    clip_emb = output.layer_cls[:, batch, targets.pos_clip]
    query_emb = output.layer_query
    losses["loss_video_cal"] = weights.video_cal * calibration_loss(clip_emb, query_emb)
    losses["loss_layer_cal"] = weights.layer_cal * calibration_loss(
        clip_emb.transpose(0, 1), query_emb.transpose(0, 1)
    )
    return losses


def point_targets(points: Tensor, strides: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor]:
    """Assign moments to points as FCOS does (Tian et al., arXiv 1904.01355), along time.

    A point is positive for a moment when it lies inside it and within 1.5 strides of its centre,
    and the larger of its distances to start and end falls in its level's range: from its stride to
    the next one, from 0 for the first level and without end for the last. The shortest such moment
    wins.

    Args:
        points: positions in clips, (M,).
        strides: stride of each point's level, (M,).
        boundary: start and end in clips, (B, G, 2), padded with inf.

    Returns:
        Whether a point is positive, (B, M), and its distances to start and end in strides,
        (B, M, 2), 0 where it is not.
    """
    real = boundary[..., 0].isfinite()
    boundary = boundary.masked_fill(~real[..., None], 0.0)
    # (B, 1, G) and (M, 1)
    start, end = boundary[..., 0][:, None], boundary[..., 1][:, None]
    point, stride = points.to(boundary.dtype)[:, None], strides.to(boundary.dtype)[:, None]

    # (B, M, G)
    to_start, to_end = point - start, end - point
    centred = (point - (start + end) / 2).abs() <= _SAMPLE_RADIUS * stride
    inside = (to_start >= 0) & (to_end >= 0)
    reach = torch.maximum(to_start, to_end)
    nearest = torch.where(stride == 1, 0.0, stride)
    farthest = torch.where(stride == strides.max(), math.inf, 2 * stride)
    candidate = real[:, None] & inside & centred & (reach >= nearest) & (reach <= farthest)

    length = (end - start).expand_as(to_start).masked_fill(~candidate, math.inf)
    shortest = length.argmin(dim=-1, keepdim=True)
    positive = candidate.any(dim=-1)
    distances = torch.cat((to_start.gather(-1, shortest), to_end.gather(-1, shortest)), dim=-1)
    return positive, (distances / stride).masked_fill(~positive[..., None], 0.0)


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each logit times (1 - p of the truth)²: focal loss, arXiv 1708.02002."""
    probability = logits.sigmoid()
    wrong = probability * (1 - targets) + (1 - probability) * targets
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return entropy * wrong**_FOCAL_GAMMA


def sampled_nce(
    video_emb: Tensor,
    query_emb: Tensor,
    video_mask: Tensor,
    saliency: Tensor,
    pos_clip: Tensor,
    scale: Tensor,
    *,
    across_batch: bool,
) -> Tensor:
    """Contrast each query with its video's clips, and each positive clip's index across the batch.

    The negatives of a positive clip are the clips whose saliency is no larger than its own. Along a
    row they are those of the same video; along a column, those at the same index in other videos.

    Args:
        video_emb: clips, (B, T, D).
        query_emb: pooled queries, (B, D).
        video_mask: True for real clips, (B, T).
        saliency: saliency of each clip, (B, T).
        pos_clip: index of the positive clip, (B,).
        scale: 1 / τ, (1,).
        across_batch: whether columns count besides rows.

    Returns:
        The mean over the batch, of rows and (added) of columns.
    """
    batch = torch.arange(len(pos_clip), device=pos_clip.device)
    eligible = (saliency <= saliency[batch, pos_clip][:, None]) & video_mask
    # (B, T)
    similarity = F.cosine_similarity(video_emb, query_emb[:, None], dim=-1) * scale
    similarity = similarity.masked_fill(~eligible, -math.inf)
    loss = F.cross_entropy(similarity, pos_clip)
    if across_batch:
        # Only the columns of positive clips are normalised: another column may hold no eligible
        # clip at all, and the gradient of a softmax over nothing is NaN, even times zero.
        loss = loss + F.cross_entropy(similarity[:, pos_clip].t(), batch)
    return loss


def calibration_loss(clip_emb: Tensor, query_emb: Tensor) -> Tensor:
    """InfoNCE between clips and queries within each group, both ways, τ = 0.07.

    Args:
        clip_emb: (G, N, D); entry n of a group belongs to entry n of the queries.
        query_emb: (G, N, D).

    Returns:
        The mean over groups, entries and the two directions.
    """
    # (G, N, N)
    cosine = F.normalize(clip_emb, dim=-1) @ F.normalize(query_emb, dim=-1).transpose(1, 2)
    similarity = cosine / _TEMPERATURE
    groups, entries = similarity.shape[:2]
    # One long list: of images, the way PyTorch has for more dimensions, sums on a GPU vary.
    truth = torch.arange(entries, device=similarity.device).repeat(groups)
    by_clip = F.cross_entropy(similarity.flatten(0, 1), truth)
    by_query = F.cross_entropy(similarity.transpose(1, 2).flatten(0, 1), truth)
    return (by_clip + by_query) / 2


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values where mask is True; 0, with a gradient of 0, where it never is."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
