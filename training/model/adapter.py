"""The R² block: reads CLIP's layers from the last backwards, pooling space, then mixing time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training._kernels import Backend, choose
from training.model.config import Padding, R2Config
from training.model.temporal import TemporalLayer, sine_positions

__all__ = ["AdapterOutput", "R2Block", "temporal_endpoints"]


@dataclass(frozen=True, kw_only=True)
class AdapterOutput:
    """What the R² block hands on.

    Attributes:
        video_emb: clips after the last step, (B, T, D).
        layer_cls: mapped CLS token of each layer, in CLIP's order, K × (B, T, D).
        layer_query: query tokens of each layer, in CLIP's order, K × (B, L, D).
    """

    video_emb: Tensor
    layer_cls: tuple[Tensor, ...]
    layer_query: tuple[Tensor, ...]


def temporal_endpoints(lengths: Tensor, num_clips: int, dtype: torch.dtype) -> Tensor:
    """Return s = t / T and e = (t + 1) / T of every clip.

    Args:
        lengths: clips T of each video, (B,).
        num_clips: clips to return; those beyond a video's length exceed 1 and mean nothing.
        dtype: floating dtype of the result.

    Returns:
        (B, num_clips, 2).
    """
    index = torch.arange(num_clips, device=lengths.device, dtype=dtype)
    # (T, 2) / (B, 1, 1)
    return torch.stack((index, index + 1), dim=-1) / lengths.to(dtype)[:, None, None]


class R2Block(nn.Module):
    """The recurrence over CLIP's layers; all maps are shared by the layers."""

    def __init__(self, config: R2Config) -> None:
        super().__init__()
        self.layers = config.layers
        self.use_tef = config.use_tef
        self.padding = config.padding
        width = config.width
        video_inputs = config.vision_width + (2 if config.use_tef else 0)
        # Both start closed: at first a clip is its CLS token, and layers weigh the same.
        self.gate = nn.Parameter(torch.zeros(config.layers - 1))
        self.scale = nn.Parameter(torch.zeros(config.layers))
        self.video_map = _input_map(video_inputs, width, config.dropout)
        self.query_map = _input_map(config.text_width, width, config.dropout)
        self.v_map = nn.Linear(width, width)
        self.q_map = nn.Linear(width, width)
        self.tem = TemporalLayer(width, config.heads, config.drop_path)

    def forward(
        self,
        video: Tensor,
        query: Tensor,
        lengths: Tensor,
        video_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> AdapterOutput:
        """Run every step, from the last CLIP layer to the first.

        Args:
            video: hidden states (V, T, K, P, Cv); entry K - 1 is CLIP's last block. B is V times
                the queries that each video is asked; those of one video stand together.
            query: hidden states (B, L, K, Ct), in the same order.
            lengths: clips that endpoints and positions are relative to, (B,).
            video_mask: True for real clips, (B, T), a prefix of each row.
            query_mask: True for real tokens, (B, L).
        """
        clips, asked = video.shape[1], len(query) // len(video)
        # A padded token takes part in the maximum only where the published weights had it so.
        pool_mask = query_mask if self.padding is Padding.EXACT else None
        positions = sine_positions(lengths, clips, self.v_map.in_features, dtype=video.dtype)
        endpoints = (
            temporal_endpoints(lengths[::asked], clips, video.dtype) if self.use_tef else None
        )

        last: Tensor | None = None
        layer_cls: list[Tensor] = []
        layer_query: list[Tensor] = []
        for layer in reversed(range(self.layers)):
            v = self.map_video(video[:, :, layer], endpoints)
            q = self.query_map(query[:, :, layer])
            f = self.pool_step(v, q, last, layer, pool_mask)
            last = self.tem(f, positions, q, video_mask, query_mask)
            layer_cls.insert(0, v[:, :, 0].repeat_interleave(asked, dim=0))
            layer_query.insert(0, q)
        assert last is not None
        return AdapterOutput(
            video_emb=last, layer_cls=tuple(layer_cls), layer_query=tuple(layer_query)
        )

    def map_video(self, tokens: Tensor, endpoints: Tensor | None) -> Tensor:
        """Map one layer's tokens (B, T, P, Cv) with endpoints (B, T, 2) to v (B, T, P, D)."""
        if endpoints is not None:
            patches = tokens.shape[2]
            # (B, T, P, Cv + 2)
            tokens = torch.cat((tokens, endpoints[:, :, None].expand(-1, -1, patches, -1)), dim=-1)
        v: Tensor = self.video_map(tokens)
        return v

    def pool_step(
        self,
        v: Tensor,
        q: Tensor,
        last: Tensor | None,
        layer: int,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Return `refine(pool_frame(...))`, by one Triton kernel where `kernels.dispatch` says so.

        The kernel's keys are v itself (kernels.frame_pool): v_map goes into the query, and its
        bias, which the softmax ignores, has no gradient then.
        """
        if choose(v.device, v.dtype, v.shape[-1]).backend is Backend.TORCH:
            pool = self.pool_frame if len(v) == len(q) else self.pool_frame_of_many
            return self.refine(pool(v, q, layer, query_mask), last, layer)
        from kernels.frame_pool import frame_pool

        def by_video(x: Tensor) -> Tensor:
            return x.reshape(len(v), -1, *x.shape[1:])

        f = frame_pool(
            v,
            by_video(q),
            by_video(self._keys_of_patches(q)),
            self.scale[layer].tanh(),
            query_mask=None if query_mask is None else by_video(query_mask),
            gate=None if last is None else self.gate[layer].sigmoid(),
            last=None if last is None else by_video(last),
        )
        return f.flatten(0, 1)

    def _keys_of_patches(self, q: Tensor) -> Tensor:
        """Map q so that its product with v is q_map(q)·v_map(v)ᵀ / √D, but for a constant in P."""
        return F.linear(self.q_map(q), self.v_map.weight.T) / math.sqrt(q.shape[-1])

    def pool_frame(
        self, v: Tensor, q: Tensor, layer: int, query_mask: Tensor | None = None
    ) -> Tensor:
        """Pool each frame's patches under the query: v[CLS] + tanh(scale)·max over L of (a·v + q).

        a = softmax over P of q_map(q)·v_map(v)ᵀ / √D.

        Args:
            v: mapped tokens (B, T, P, D), CLS first.
            q: mapped query tokens (B, L, D).
            layer: the CLIP layer, 0..K-1.
            query_mask: True for real tokens, (B, L).

        Returns:
            (B, T, D).
        """
        keys = self.v_map(v)
        queries = self.q_map(q)[:, None]
        # (B, T, L, P)
        attention = (queries @ keys.transpose(-1, -2) / math.sqrt(v.shape[-1])).softmax(dim=-1)
        if query_mask is not None:
            # In q, which is small, and not in the sum: no token that is -inf is the greatest.
            q = q.masked_fill(~query_mask[..., None], -math.inf)
        # (B, T, L, D)
        attended = attention @ v + q[:, None]
        pooled: Tensor = v[:, :, 0] + self.scale[layer].tanh() * attended.amax(dim=2)
        return pooled

    def pool_frame_of_many(
        self, v: Tensor, q: Tensor, layer: int, query_mask: Tensor | None = None
    ) -> Tensor:
        """`pool_frame` where several queries ask each video, whose patches are then read once.

        Args:
            v: mapped tokens (V, T, P, D), CLS first.
            q: mapped query tokens (B, L, D), those of one video together.
            layer: the CLIP layer, 0..K-1.
            query_mask: True for real tokens, (B, L).

        Returns:
            (B, T, D).
        """
        videos, clips, _, width = v.shape
        length = q.shape[1]
        # (V, 1, N·L, D): one product a frame, whatever the number of queries N.
        keys = self._keys_of_patches(q).view(videos, 1, -1, width)
        attention = (keys @ v.transpose(-1, -2)).softmax(dim=-1)
        if query_mask is not None:
            q = q.masked_fill(~query_mask[..., None], -math.inf)
        # (V, T, N, L, D)
        attended = (attention @ v).view(videos, -1, len(q) // videos, length, width)
        attended = attended + q.view(videos, 1, -1, length, width)
        pooled: Tensor = v[:, :, :1] + self.scale[layer].tanh() * attended.amax(dim=3)
        return pooled.transpose(1, 2).reshape(-1, clips, width)

    def refine(self, f: Tensor, last: Tensor | None, layer: int) -> Tensor:
        """Gate the step's clips f with those of the step before, both (B, T, D)."""
        if last is None:
            return f
        gate = self.gate[layer].sigmoid()
        return gate * f + (1 - gate) * last


def _input_map(inputs: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(inputs),
        nn.Dropout(dropout),
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.LayerNorm(width),
        nn.Dropout(dropout),
        nn.Linear(width, width),
    )
