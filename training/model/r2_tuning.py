"""The whole model behind CLIP: R² block, pyramid, heads, and how its outputs become moments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model.adapter import R2Block
from training.model.config import Padding, R2Config
from training.model.heads import ConvHead, QueryPooling
from training.model.pyramid import ConvPyramid

__all__ = ["R2Output", "R2Tuning", "decode_boundaries", "stretch_levels"]


@dataclass(frozen=True, kw_only=True)
class R2Output:
    """The model's outputs, and what the losses need besides.

    M counts the points of all levels, in the order of the strides; point j of a level stands at
    j · stride clips. Entries beyond a video's length are padding and mean nothing.

    Attributes:
        class_logits: logit of each point, (B, M).
        offsets: distances to the start and the end in strides, (B, M, 2); None without a coordinate
            head.
        saliency: score of each clip, (B, T); 0 for padded clips.
        points: position of each point in clips, (M,).
        point_strides: stride of each point's level in clips, (M,).
        point_mask: True for points that exist in a video of that length, (B, M).
        video_mask: True for real clips, (B, T).
        video_emb: clip embeddings behind the pyramid's first ReLU, (B, T, D).
        query_emb: pooled query, (B, D).
        layer_cls: mapped CLS token of each CLIP layer, in CLIP's order, (K, B, T, D).
        layer_query: pooled query of each layer, (K, B, D).
    """

    class_logits: Tensor
    offsets: Tensor | None
    saliency: Tensor
    points: Tensor
    point_strides: Tensor
    point_mask: Tensor
    video_mask: Tensor
    video_emb: Tensor
    query_emb: Tensor
    layer_cls: Tensor
    layer_query: Tensor


class _SimilarityScale(nn.Module):
    """Holds ln(1 / τ) of the sampled NCE, which published checkpoints carry; never learned."""

    scale: Tensor

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self.register_buffer("scale", -torch.tensor([temperature]).log())


class _LossState(nn.Module):
    """The part of the losses that lives in a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self._loss_sal = _SimilarityScale()


class R2Tuning(nn.Module):
    """R²-Tuning on CLIP's hidden states; its state dict has the published checkpoints' keys."""

    def __init__(self, config: R2Config) -> None:
        super().__init__()
        self.config = config
        self.coef = nn.Parameter(torch.ones(len(config.strides)))
        self.adapter = R2Block(config)
        self.pyramid = ConvPyramid(config.width, config.strides)
        self.pooling = QueryPooling(config.width)
        self.class_head = ConvHead(config.width, 1)
        self.coord_head = ConvHead(config.width, 2) if config.has_offsets else None
        self.loss = _LossState()

    @property
    def similarity_scale(self) -> Tensor:
        """The factor 1 / τ on cosines in the sampled NCE, at most 100, (1,)."""
        return self.loss._loss_sal.scale.exp().clamp(max=100.0)

    def forward(
        self,
        video: Tensor,
        query: Tensor,
        video_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> R2Output:
        """Ground queries in videos.

        Args:
            video: vision tower's hidden states (V, T, K, P, Cv), floating; entry K - 1 of K is the
                last block. A video may be asked several queries, all videos the same number: those
                of the first video come first. It is mapped once then, and the outputs are what they
                are for V = B videos, some of them equal.
            query: text tower's hidden states (B, L, K, Ct), in the same order.
            video_mask: True (or nonzero) for real clips, (V, T), a prefix of each row with at least
                one clip; None where nothing is padded.
            query_mask: the same for query tokens, (B, L).

        Raises:
            ValueError: B is no multiple of V.
        """
        batch, clips = len(query), video.shape[1]
        if batch % len(video):
            raise ValueError(f"{batch} queries are no equal number for each of {len(video)} videos")
        all_clips = torch.full((batch,), clips, device=video.device)
        if video_mask is not None:
            video_mask = video_mask.bool().repeat_interleave(batch // len(video), dim=0)
        query_mask = None if query_mask is None else query_mask.bool()
        exact = self.config.padding is Padding.EXACT
        # Clips of each video's time axis.
        lengths = all_clips if video_mask is None or not exact else video_mask.sum(dim=1)

        read = self.adapter(video, query, lengths, video_mask, query_mask)
        # The published weights were trained with the first level's ReLU reaching every later reader
        # of the clips: the other levels, the cosine, the losses.
        video_emb = read.video_emb.relu()
        levels = self.pyramid(video_emb)
        strides = self.config.strides[: len(levels)]
        points, point_strides = _points([level.shape[1] for level in levels], strides)
        points, point_strides = points.to(video.device), point_strides.to(video.device)
        # A point exists where all of its clips do.
        exists = points + point_strides <= lengths[:, None]
        level_masks: Sequence[Tensor | None] = [None] * len(levels)
        if video_mask is None:
            video_mask = video.new_ones((batch, clips), dtype=torch.bool)
        elif exact:
            level_masks = torch.split(exists, [level.shape[1] for level in levels], dim=1)

        # As in the published training, mixed precision ends before the heads.
        mixed = torch.is_autocast_enabled(video.device.type)
        whole = torch.float32 if mixed else video_emb.dtype
        with torch.autocast(video.device.type, enabled=False):
            video_emb = video_emb.to(whole)
            queries = [q.to(whole) for q in read.layer_query]
            layer_query = torch.stack([self.pooling(q, query_mask) for q in queries])
            query_emb = layer_query[0]
            levels = [level.to(whole) for level in levels]
            class_levels = [
                self.class_head(level, mask)[..., 0]
                for level, mask in zip(levels, level_masks, strict=True)
            ]
            offsets = None
            if self.coord_head is not None:
                offsets = torch.cat(
                    [
                        self.coord_head(level, mask).exp() * self.coef[i]
                        for i, (level, mask) in enumerate(zip(levels, level_masks, strict=True))
                    ],
                    dim=1,
                )

        saliency = stretch_levels([c.sigmoid() for c in class_levels], strides, clips, lengths)
        if self.config.merge_cls_sal:
            saliency = saliency * F.cosine_similarity(video_emb, query_emb[:, None], dim=-1)
        return R2Output(
            class_logits=torch.cat(class_levels, dim=1),
            offsets=offsets,
            saliency=saliency * video_mask,
            points=points,
            point_strides=point_strides,
            # On a shared time axis a point exists where its first clip does.
            point_mask=exists if exact else video_mask[:, points],
            video_mask=video_mask,
            video_emb=video_emb,
            query_emb=query_emb,
            layer_cls=torch.stack(read.layer_cls).to(whole),
            layer_query=layer_query,
        )


def stretch_levels(
    level_scores: Sequence[Tensor], strides: Sequence[int], num_clips: int, lengths: Tensor
) -> Tensor:
    """Stretch each level's scores to the clips and take the maximum over levels.

    In a video of T clips, each of a level's n scores is repeated T // n times, and the tail repeats
    the last. T // n exceeds the level's stride where T is short: at T = 19 the two scores of stride
    8 are repeated 9 times. A level whose stride exceeds a video's length has no scores.

    Args:
        level_scores: scores of the levels' points, (B, num_clips // stride) each.
        strides: the levels' strides in clips.
        num_clips: clips of the longest video.
        lengths: clips T of each video, (B,).

    Returns:
        (B, num_clips).
    """
    clip_index = torch.arange(num_clips, device=lengths.device)
    stretched = []
    for scores, stride in zip(level_scores, strides, strict=True):
        points = lengths[:, None] // stride
        repeats = lengths[:, None] // points.clamp(min=1)
        point_index = torch.minimum(clip_index // repeats, (points - 1).clamp(min=0))
        stretched.append(scores.gather(1, point_index).masked_fill(points == 0, -math.inf))
    return torch.stack(stretched).amax(dim=0)


def decode_boundaries(output: R2Output, *, fps: float, limit: int = 50) -> list[Tensor]:
    """Turn each video's points into moments, best first, before clamping, rounding and NMS.

    start = (point - c0·stride) / fps, end = (point + c1·stride) / fps, score = σ(class).

    Args:
        output: of a model with a coordinate head.
        fps: clips a second.
        limit: the most moments a video keeps.

    Returns:
        One (M, 3) a video: start and end in seconds, score.

    Raises:
        ValueError: the model has no coordinate head.
    """
    if output.offsets is None:
        raise ValueError("this model has no coordinate head: it scores clips and finds no moments")
    distance = output.offsets * output.point_strides[:, None]
    start_s = (output.points - distance[..., 0]) / fps
    end_s = (output.points + distance[..., 1]) / fps
    # (B, M, 3)
    moments = torch.stack((start_s, end_s, output.class_logits.sigmoid()), dim=-1)
    decoded = []
    for video_moments, mask in zip(moments, output.point_mask, strict=True):
        real = video_moments[mask]
        best = real[:, 2].argsort(descending=True, stable=True)[:limit]
        decoded.append(real[best])
    return decoded


def _points(lengths: Sequence[int], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return position and stride, in clips, of the points of levels with these lengths, (M,)."""
    levels = list(zip(lengths, strides, strict=True))
    positions = [torch.arange(length) * stride for length, stride in levels]
    repeats = [torch.full((length,), stride) for length, stride in levels]
    return torch.cat(positions), torch.cat(repeats)
