"""What the demo model's R² block is trained for: the model's own losses, and scores that compare.

The model's losses ask where in its video a query is true. A long video is read window by window,
and the best score of all wins, so where every video of a batch is asked the queries of all, a point
is wrong in a video that does not show what was asked, and the right ones must score above them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from training.demo.videos import Truth
from training.losses import LossTargets, LossWeights, compute_losses, focal_loss, point_targets
from training.model import R2Output, R2Tuning

__all__ = ["losses", "ranking_loss"]

_RANK_WEIGHT = 0.3
# Fields of the model's output whose first axis is the batch's.
_BY_QUERY = (
    "class_logits",
    "offsets",
    "saliency",
    "point_mask",
    "video_mask",
    "video_emb",
    "query_emb",
)


def losses(
    model: R2Tuning,
    output: R2Output,
    targets: LossTargets,
    truth: Tensor,
    weights: LossWeights,
    *,
    shared: bool = True,
) -> dict[str, Tensor]:
    """Return the loss terms of V videos that are asked N queries each, by name.

    Queries that are a video's own and true have the model's losses. Those that are true nowhere in
    it have `loss_absent`: no point of theirs is a moment. `loss_rank` compares the points of one
    query.

    Args:
        model: the model that made the output.
        output: of the B = V · N samples.
        targets: what it should have been.
        truth: values of `Truth`, (V, N).
        weights: factors of the model's losses.
        shared: whether all videos are asked the same queries.
    """
    own = (truth == Truth.OWN).flatten()
    nowhere = (truth == Truth.NOWHERE).flatten()
    assert output.offsets is not None
    assert targets.boundary_s is not None
    assert targets.fps is not None
    present = replace(
        output,
        **{name: getattr(output, name)[own] for name in _BY_QUERY},
        layer_cls=output.layer_cls[:, own],
        layer_query=output.layer_query[:, own],
    )
    wanted = LossTargets(
        saliency=targets.saliency[own],
        pos_clip=targets.pos_clip[own],
        boundary_s=targets.boundary_s[own],
        fps=targets.fps[own],
    )
    terms = compute_losses(model, present, wanted, weights)
    if bool(nowhere.any()):
        logits = output.class_logits[nowhere][output.point_mask[nowhere]]
        wrong = focal_loss(logits, torch.zeros_like(logits)).mean()
        terms["loss_absent"] = weights.cls * float(nowhere.float().mean()) * wrong
    terms["loss_rank"] = _RANK_WEIGHT * ranking_loss(output, targets, truth, shared=shared)
    return terms


def ranking_loss(
    output: R2Output, targets: LossTargets, truth: Tensor, *, shared: bool = True
) -> Tensor:
    """Return -ln of the right points' share in a softmax over a query's points in all its videos.

    A query's right points are those that `point_targets` assigns to its moments; its wrong ones are
    all that touch no moment, in its own video and in those that do not show it. Points that touch
    a moment without being assigned to it are neither, as is all of a video in which another
    video's query is true.

    Args:
        output: of the B = V · N samples.
        targets: what it should have been.
        truth: values of `Truth`, (V, N).
        shared: whether all videos are asked the same queries, else each its own.

    Returns:
        The mean over queries that have a right point; 0 where none has.
    """
    assert targets.boundary_s is not None
    assert targets.fps is not None
    boundary = targets.boundary_s * targets.fps[:, None, None]  # (B, G, 2)
    right, _ = point_targets(output.points, output.point_strides, boundary)
    right = right & output.point_mask & (truth == Truth.OWN).flatten()[:, None]
    start, end = boundary[..., 0], boundary[..., 1]
    touches = (output.points[:, None] < end[:, None]) & (
        (output.points + output.point_strides)[:, None] > start[:, None]
    )  # (B, M, G); padding is infinite at both ends
    wrong = output.point_mask & ~touches.any(dim=-1)
    wrong = wrong & (truth != Truth.OTHERS).flatten()[:, None]

    def by_query(x: Tensor) -> Tensor:
        """(B, M) -> (N, V · M) where the queries are shared."""
        return x if not shared else x.view(*truth.shape, -1).transpose(0, 1).flatten(1)

    logits, right, wrong = map(by_query, (output.class_logits.float(), right, wrong))
    asked = right.any(dim=1)
    if not bool(asked.any()):
        return logits.sum() * 0
    logits, right, wrong = logits[asked], right[asked], wrong[asked]
    among = logits.masked_fill(~(right | wrong), -torch.inf).logsumexp(dim=1)
    return (among - logits.masked_fill(~right, -torch.inf).logsumexp(dim=1)).mean()
