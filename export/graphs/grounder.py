"""`grounder`: from a video's mapped tokens and encoded queries to points, offsets and saliency."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.graphs.layers import attend, constant, key_bias, stacked_linear
from export.graphs.pyramid import LevelHeads, Pyramid

if TYPE_CHECKING:
    from training.model import R2Tuning

__all__ = ["Grounder", "GrounderHeads"]

_TEMPERATURE = 10000.0


class Grounder(nn.Module):
    """The recurrence over CLIP's layers, the temporal pyramid and the heads, for N queries."""

    def __init__(self, model: R2Tuning) -> None:
        super().__init__()
        self.pooling = FramePooling(model)
        self.temporal = TemporalSteps(model)
        self.pyramid = Pyramid(model)
        self.heads = LevelHeads(model)
        self.merge_cls_sal = model.config.merge_cls_sal

    def forward(
        self, v: Tensor, q: Tensor, q_key: Tensor, pooled: Tensor, query_mask: Tensor
    ) -> tuple[Tensor, ...]:
        """Ground N queries in a video.

        Args:
            v: mapped tokens (T, K, P, D).
            q: mapped query tokens (N, K, L, D).
            q_key: keys of the query tokens (N, K, L, D), 1/√D included.
            pooled: pooled queries (N, D).
            query_mask: 1 for real query tokens, (N, L).

        Returns:
            class_logits (N, M); offsets (N, M, 2) in strides, where there is a coordinate head;
            saliency (N, T).
        """
        bias = key_bias(query_mask)  # (N, L)
        video = self.temporal(self.pooling(v, q, q_key, bias), q, bias).relu()  # (N, T, D)
        return _score(video, pooled, self)


class GrounderHeads(nn.Module):
    """What the grounder does behind the recurrence, where that is computed by kernels."""

    def __init__(self, model: R2Tuning) -> None:
        super().__init__()
        self.pyramid = Pyramid(model)
        self.heads = LevelHeads(model)
        self.merge_cls_sal = model.config.merge_cls_sal

    def forward(self, clips: Tensor, pooled: Tensor) -> tuple[Tensor, ...]:
        """Score clips (N, T, D), as the last temporal step gives them, under pooled queries (N, D).

        Returns:
            What `Grounder` returns.
        """
        return _score(clips.relu(), pooled, self)


def _score(video: Tensor, pooled: Tensor, parts: Grounder | GrounderHeads) -> tuple[Tensor, ...]:
    class_logits, offsets, saliency = parts.heads(parts.pyramid(video), video.shape[1])
    if parts.merge_cls_sal:
        saliency = saliency * F.cosine_similarity(video, pooled[:, None], dim=-1)
    if offsets is None:
        return class_logits, saliency
    return class_logits, offsets, saliency


class FramePooling(nn.Module):
    """f = v[CLS] + tanh(scale)·max over L of (a·v + q), a = softmax over P of q_key·vᵀ.

    Nothing here depends on the recurrence, so v is read once for all layers and all queries.
    """

    def __init__(self, model: R2Tuning) -> None:
        super().__init__()
        self.scale = constant(model.adapter.scale.double().tanh().view(-1, 1, 1, 1))

    def forward(self, v: Tensor, q: Tensor, q_key: Tensor, bias: Tensor) -> Tensor:
        """Pool v (T, K, P, D) under q, q_key (N, K, L, D) and bias (N, L) to (K, N, T, D)."""
        queries, layers, length = q.shape[:3]
        keys = q_key.transpose(0, 1).flatten(1, 2)[None]  # (1, K, N·L, D)
        attended = (keys @ v.transpose(-1, -2)).softmax(dim=-1) @ v  # (T, K, N·L, D)
        attended = attended.view(-1, layers, queries, length, attended.shape[-1])
        values = (q + bias[:, None, :, None]).transpose(0, 1)  # (K, N, L, D)
        pooled = (attended + values).amax(dim=3)  # (T, K, N, D)
        cls = v[:, :, 0].transpose(0, 1)[:, None]  # (K, 1, T, D)
        return cls + self.scale * pooled.permute(1, 2, 0, 3)


class TemporalSteps(nn.Module):
    """From the last CLIP layer to the first: gate with the step before, then the temporal layer.

    last = LN(x + FFN(x)), x = LN(c + attention over time(c + pe, c + pe, c)),
    c = LN(f + attention(f + pe, q, q)).
    """

    def __init__(self, model: R2Tuning) -> None:
        super().__init__()
        block, layer = model.adapter, model.adapter.tem
        self.width, self.heads = model.config.width, model.config.heads
        self.layers = model.config.layers
        scale = (self.width // self.heads) ** -0.5
        cross, mixed = layer.cross_att, layer.self_att
        self.gates = block.gate.detach().double().sigmoid().tolist()
        self.cross_q = stacked_linear(cross.q, scales=[scale])
        self.cross_kv = stacked_linear(cross.k, cross.v)
        self.cross_out, self.cross_norm = cross.m, layer.cross_att_norm
        self.self_qk = stacked_linear(mixed.q, mixed.k, scales=[scale, 1.0])
        self.self_v, self.self_out, self.self_norm = mixed.v, mixed.m, layer.self_att_norm
        self.ffn, self.ffn_norm = layer.ffn, layer.ffn_norm
        pairs = torch.arange(self.width // 2, dtype=torch.float32)
        self.periods = constant(_TEMPERATURE ** (2 * pairs / self.width))

    def forward(self, f: Tensor, q: Tensor, bias: Tensor) -> Tensor:
        """Mix f (K, N, T, D) with q (N, K, L, D) and bias (N, L) to clips (N, T, D)."""
        pe = self._positions(f.shape[2])
        keys, values = self.cross_kv(q).chunk(2, dim=-1)  # (N, K, L, D)
        bias = bias[:, None, None]
        last = self._step(f[-1], pe, keys[:, -1], values[:, -1], bias)
        for layer in reversed(range(self.layers - 1)):
            gate = self.gates[layer]
            gated = gate * f[layer] + (1 - gate) * last
            last = self._step(gated, pe, keys[:, layer], values[:, layer], bias)
        return last

    def _step(self, f: Tensor, pe: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        attended = attend(self.cross_q(f + pe), keys, values, self.heads, bias)
        f = self.cross_norm(f + self.cross_out(attended))
        queries, keys = self.self_qk(f + pe).chunk(2, dim=-1)
        mixed = attend(queries, keys, self.self_v(f), self.heads)
        f = self.self_norm(f + self.self_out(mixed))
        out: Tensor = self.ffn_norm(f + self.ffn(f))
        return out

    def _positions(self, clips: int) -> Tensor:
        """Sine encoding (T, D) of 2π·n / (T + 1e-6), n = 1..T, sin and cos interleaved."""
        index = torch.arange(1, clips + 1, dtype=torch.float32)
        angle = (index / (clips + 1e-6) * (2 * math.pi))[:, None] / self.periods
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)
