"""How several processes train on one batch and get the losses of one process.

The losses contrast a sample with the others of its batch and average over all points of all
samples, so they are no mean of the processes' own losses. Each process therefore runs the model on
its share, gathers what the losses read from all shares, and computes the losses of the whole batch.
Of the gathered tensors only its own rows carry a gradient: what it gets by going backwards is its
share's exact part of the gradient, the sum over processes is the whole, and since
DistributedDataParallel takes the mean, the loss that goes backwards is multiplied by their number.

Before the forward pass the processes agree on the longest video and query of the batch and pad to
it, so that all have the same points, and `Padding.SHARED` means the same time axis.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from training.data.sample import Batch
from training.losses import LossTargets, LossWeights, compute_losses
from training.model import R2Output, R2Tuning

__all__ = ["ShareModule", "batch_losses", "connected", "forget_idle", "largest", "padded"]

# Of an output: the tensors of one row a sample that the losses read.
_ROWS = ("class_logits", "offsets", "point_mask", "video_mask", "video_emb", "query_emb")


class ShareModule(nn.Module):
    """The model as a forward pass from a batch's tensors to what its losses need, as a dict.

    A frozen dataclass would not pass through Fabric, and of `layer_cls` only the positive clips are
    sent around.

    Args:
        model: what runs.
        whole: whether every parameter is part of the outputs, those too that a batch does not use:
            the levels of the pyramid beyond short videos, and a bias that cancels in the kernels.
            DistributedDataParallel waits for a gradient of each.
    """

    def __init__(self, model: R2Tuning, *, whole: bool = False) -> None:
        super().__init__()
        self.model = model
        self.whole = whole

    def forward(
        self,
        video: Tensor,
        query: Tensor,
        video_mask: Tensor,
        query_mask: Tensor,
        pos_clip: Tensor,
    ) -> dict[str, Tensor]:
        """Run the model; the arguments are those of `Batch`."""
        output: R2Output = self.model(video, query, video_mask, query_mask)
        found = {name: getattr(output, name) for name in _ROWS}
        if self.whole:
            nothing = 0.0 * torch.stack([p.sum() for p in self.model.parameters()]).sum()
            found["class_logits"] = found["class_logits"] + nothing
        batch = torch.arange(len(pos_clip), device=pos_clip.device)
        return {name: tensor for name, tensor in found.items() if tensor is not None} | {
            # (B, K, D)
            "layer_cls": output.layer_cls[:, batch, pos_clip].transpose(0, 1),
            "layer_query": output.layer_query.transpose(0, 1),
            # (M,), the same in every share.
            "points": output.points,
            "point_strides": output.point_strides,
        }


def largest(fabric: Fabric, numbers: list[int]) -> list[int]:
    """Return each number's largest value over all processes."""
    if fabric.world_size == 1:
        return numbers
    ours = torch.tensor(numbers, dtype=torch.int64, device=fabric.device)
    torch.distributed.all_reduce(ours, torch.distributed.ReduceOp.MAX)
    found: list[int] = ours.tolist()
    return found


def padded(batch: Batch, clips: int, tokens: int, moments: int) -> Batch:
    """Pad a batch to that many clips, query tokens and moments a sample."""
    more_clips = clips - batch.video.shape[1]
    more_tokens = tokens - batch.query.shape[1]
    boundary = batch.targets.boundary_s
    if boundary is not None and boundary.shape[1] < moments:
        boundary = F.pad(boundary, (0, 0, 0, moments - boundary.shape[1]), value=torch.inf)
    if more_clips:
        batch = replace(
            batch,
            video=F.pad(batch.video, (0, 0, 0, 0, 0, 0, 0, more_clips)),
            video_mask=F.pad(batch.video_mask, (0, more_clips)),
        )
    if more_tokens:
        batch = replace(
            batch,
            query=F.pad(batch.query, (0, 0, 0, 0, 0, more_tokens)),
            query_mask=F.pad(batch.query_mask, (0, more_tokens)),
        )
    targets = replace(
        batch.targets,
        saliency=F.pad(batch.targets.saliency, (0, more_clips)),
        boundary_s=boundary,
    )
    return replace(batch, targets=targets)


def batch_losses(
    fabric: Fabric,
    model: R2Tuning,
    share: dict[str, Tensor],
    targets: LossTargets,
    size: int,
    weights: LossWeights,
) -> dict[str, Tensor]:
    """Return the losses of the whole batch, the same in every process.

    Args:
        fabric: of the run.
        model: the bare model, for its 1 / τ.
        share: what `ShareModule` made of this process's share.
        targets: of this process's share.
        size: samples in the whole batch; rows beyond it are repeats and are left out.
        weights: factors of the terms.
    """
    rows = {name: share[name] for name in (*_ROWS, "layer_cls", "layer_query") if name in share}
    aims = {
        "saliency": targets.saliency,
        "pos_clip": targets.pos_clip,
        "boundary_s": targets.boundary_s,
        "fps": targets.fps,
    }
    named_aims = {name: tensor for name, tensor in aims.items() if tensor is not None}
    if fabric.world_size > 1:
        rows = {name: _gathered(fabric, tensor)[:size] for name, tensor in rows.items()}
        named_aims = {name: _gathered(fabric, t)[:size] for name, t in named_aims.items()}
    clips = rows["video_mask"].shape[1]
    output = R2Output(
        **{name: rows[name] for name in _ROWS if name in rows and name != "offsets"},
        offsets=rows.get("offsets"),
        # The losses read one clip of each video, and not the saliency as it is answered.
        layer_cls=rows["layer_cls"].transpose(0, 1)[:, :, None].expand(-1, -1, clips, -1),
        layer_query=rows["layer_query"].transpose(0, 1),
        points=share["points"],
        point_strides=share["point_strides"],
        saliency=rows["class_logits"].new_zeros(len(rows["video_mask"]), clips),
    )
    return compute_losses(model, output, LossTargets(**named_aims), weights)


def connected(loss: Tensor, share: dict[str, Tensor]) -> Tensor:
    """Add nothing to the loss that yet depends on the share.

    A process whose share is repeats alone has no part in the loss, but must go backwards with the
    others, since it is they who wait for its gradient.
    """
    own = [t.sum() for t in share.values() if t.requires_grad]
    return loss + 0.0 * torch.stack(own).sum()


def forget_idle(model: R2Tuning, clips: int) -> None:
    """Remove the gradients, all 0, of the pyramid's levels that videos of so many clips lack.

    The optimizer leaves out what has no gradient, as in one process; at 0 it would decay it.
    """
    for stride, block in zip(model.config.strides, model.pyramid.blocks, strict=True):
        if clips < stride:
            for parameter in block.parameters():
                parameter.grad = None


def _gathered(fabric: Fabric, tensor: Tensor) -> Tensor:
    """All shares' rows in order, of which this process's own keep their gradient."""
    sent = tensor.detach()
    sent = sent.to(torch.uint8) if sent.dtype == torch.bool else sent
    shares = [torch.empty_like(sent) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(shares, sent.contiguous())
    rows = [share.to(tensor.dtype) for share in shares]
    rows[fabric.global_rank] = tensor
    return torch.cat(rows)
