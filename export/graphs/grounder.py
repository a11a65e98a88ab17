"""`grounder`: from a video's mapped tokens and encoded queries to points, offsets and saliency."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.graphs.layers import Linear, attend, key_bias, load_weights, model_tensors, weight
from export.graphs.pyramid import LevelHeads, Pyramid
from r2rt.model.convert import folds

if TYPE_CHECKING:
    from training.model import R2Tuning
    from training.model.config import R2Config

__all__ = ["Grounder", "GrounderHeads"]

_TEMPERATURE = 10000.0


class Grounder(nn.Module):
    """The recurrence over CLIP's layers, the temporal pyramid and the heads, for N queries."""

    def __init__(self, model: R2Tuning) -> None:
        super().__init__()
        self.pooling = FramePooling(model.config)
        self.temporal = TemporalSteps(model.config)
        self.pyramid = Pyramid(model.config)
        self.heads = LevelHeads(model.config)
        self.merge_cls_sal = model.config.merge_cls_sal
        load_weights(self, folds.grounder(model_tensors(model), heads=model.config.heads))

    def forward(
        self,
        v: Tensor,
        q: Tensor,
        q_key: Tensor,
        pooled: Tensor,
        query_mask: Tensor,
        patch_bias: Tensor,
    ) -> tuple[Tensor, ...]:
        """Ground N queries in a video.

        Args:
            v: mapped tokens (T, K, P, D).
            q: mapped query tokens (N, K, L, D).
            q_key: keys of the query tokens (N, K, L, D), 1/√D included.
            pooled: pooled queries (N, D).
            query_mask: 1 for real query tokens, (N, L).
            patch_bias: added to the scores of patches (T, K, P): ln(n) for n merged ones, else 0.

        Returns:
            class_logits (N, M); offsets (N, M, 2) in strides, where there is a coordinate head;
            saliency (N, T).
        """
        bias = key_bias(query_mask)  # (N, L)
        video = self.temporal(self.pooling(v, q, q_key, bias, patch_bias), q, bias).relu()
        return _score(video, pooled, self)


class GrounderHeads(nn.Module):
    """What the grounder does behind the recurrence, where that is computed by kernels."""

    def __init__(self, model: R2Tuning) -> None:
        super().__init__()
        self.pyramid = Pyramid(model.config)
        self.heads = LevelHeads(model.config)
        self.merge_cls_sal = model.config.merge_cls_sal
        load_weights(self, folds.grounder_heads(model_tensors(model)))

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
    """f = v[CLS] + tanh(scale)·max over L of (a·v + q), a = softmax over P of q_key·vᵀ + bias.

    Nothing here depends on the recurrence, so v is read once for all layers and all queries.
    """

    def __init__(self, config: R2Config) -> None:
        super().__init__()
        self.scale = weight(config.layers, 1, 1, 1)

    def forward(
        self, v: Tensor, q: Tensor, q_key: Tensor, bias: Tensor, patch_bias: Tensor
    ) -> Tensor:
        """Pool v (T, K, P, D) to (K, N, T, D).

        Args:
            v: mapped tokens.
            q: mapped query tokens (N, K, L, D).
            q_key: their keys (N, K, L, D).
            bias: of query tokens (N, L).
            patch_bias: of patches (T, K, P).
        """
        queries, layers, length = q.shape[:3]
        keys = q_key.transpose(0, 1).flatten(1, 2)[None]  # (1, K, N·L, D)
        scores = keys @ v.transpose(-1, -2) + patch_bias[:, :, None]  # (T, K, N·L, P)
        attended = scores.softmax(dim=-1) @ v  # (T, K, N·L, D)
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

    periods: Tensor

    def __init__(self, config: R2Config) -> None:
        super().__init__()
        width = config.width
        self.width, self.heads, self.layers = width, config.heads, config.layers
        self.gates = nn.ParameterList(weight(1) for _ in range(config.layers - 1))
        self.keeps = nn.ParameterList(weight(1) for _ in range(config.layers - 1))
        self.cross_q, self.cross_kv = Linear(width, width), Linear(width, 2 * width)
        self.cross_out, self.cross_norm = Linear(width, width), nn.LayerNorm(width)
        self.self_qk, self.self_v = Linear(width, 2 * width), Linear(width, width)
        self.self_out, self.self_norm = Linear(width, width), nn.LayerNorm(width)
        self.ffn = nn.Sequential(Linear(width, 4 * width), nn.ReLU(), Linear(4 * width, width))
        self.ffn_norm = nn.LayerNorm(width)
        pairs = torch.arange(width // 2, dtype=torch.float32)
        self.register_buffer("periods", _TEMPERATURE ** (2 * pairs / width), persistent=False)

    def forward(self, f: Tensor, q: Tensor, bias: Tensor) -> Tensor:
        """Mix f (K, N, T, D) with q (N, K, L, D) and bias (N, L) to clips (N, T, D)."""
        pe = self._positions(f.shape[2])
        keys, values = self.cross_kv(q).chunk(2, dim=-1)  # (N, K, L, D)
        bias = bias[:, None, None]
        last = self._step(f[-1], pe, keys[:, -1], values[:, -1], bias)
        for layer in reversed(range(self.layers - 1)):
            gated = self.gates[layer] * f[layer] + self.keeps[layer] * last
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
