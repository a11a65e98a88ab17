"""`video_encoder` and `video_finalizer`: from frames to the mapped tokens v.

With temporal endpoint features s and e, the video map begins with a LayerNorm over [x ; s ; e], so
it seems to need the number of clips. With m = mean(x), M2 = Σ(x - m)² and W' = W·diag(γ) it splits:
`video_encoder` stores p = W'ₓ(x - m), m and M2, and once T is known

    n = Cv + 2,  μ = (Cv·m + s + e) / n,  σ² = (M2 + Cv(m - μ)² + (s - μ)² + (e - μ)²) / n,
    h = (p + (m - μ)·W'ₓ1 + (s - μ)·w'ₛ + (e - μ)·w'ₑ) / √(σ² + ε) + Wβ + b.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from export.graphs.layers import (
    Linear,
    Projection,
    TowerBlock,
    clip_tensors,
    input_map,
    load_weights,
    model_tensors,
    norm_like,
    run_tower,
    weight,
)
from r2rt.model.convert import folds

if TYPE_CHECKING:
    from training.clip import Block, ClipTowers
    from training.clip_towers import AttentionPool as TowerPool
    from training.clip_towers import FrameEmbedding
    from training.model import R2Tuning

__all__ = ["FrameTokens", "VideoEncoder", "VideoFinalizer"]


class FrameTokens(nn.Module):
    """Hidden states of a frame to its stored tokens: p, m, M2 with endpoint features, else v."""

    def __init__(self, model: R2Tuning) -> None:
        super().__init__()
        self.use_tef = model.config.use_tef
        channels, width = model.config.vision_width, model.config.width
        if self.use_tef:
            self.weight = weight(channels, width)
        else:
            self.video_map = input_map(channels, width)
        load_weights(self, folds.frame_tokens(model_tensors(model), use_tef=self.use_tef))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden states (B, K, P, Cv) to tokens (B, K, P, D + 2), or (B, K, P, D)."""
        if not self.use_tef:
            v: Tensor = self.video_map(hidden)
            return v
        mean = hidden.mean(dim=-1, keepdim=True)
        centred = hidden - mean
        square = (centred * centred).sum(dim=-1, keepdim=True)
        return torch.cat([centred @ self.weight, mean, square], dim=-1)


class FrameProjection(Projection):
    """CLIP's embedding of a frame: of its first token, or of all tokens pooled by attention."""

    def __init__(self, like: FrameEmbedding) -> None:
        super().__init__(like)
        self.pool = None if like.pool is None else AttentionPool(like.pool)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map the last block's tokens (B, N, Cv) to (B, E)."""
        if self.pool is None:
            return self.project(self.norm(tokens[:, 0]))
        return self.project(self.pool(self.norm(tokens)))


class AttentionPool(nn.Module):
    """A learned query attends to all tokens; `folds` computes the query and keys once."""

    def __init__(self, like: TowerPool) -> None:
        super().__init__()
        width, inner = like.out.in_features, like.fc.out_features
        self.keys = weight(width, like.heads)
        self.values = weight(like.heads, width, width // like.heads)
        self.values_bias = weight(width)
        self.out, self.norm = Linear(width, width), norm_like(like.norm)
        self.fc, self.act, self.proj = Linear(width, inner), like.act, Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Pool tokens (B, N, C) to (B, C)."""
        attention = (x @ self.keys).transpose(1, 2).softmax(dim=-1)  # (B, H, N)
        pooled = (attention @ x)[:, :, None] @ self.values  # (B, H, 1, C / H)
        pooled = self.out(pooled.flatten(1) + self.values_bias)
        out: Tensor = pooled + self.proj(self.act(self.fc(self.norm(pooled))))
        return out


class VideoEncoder(nn.Module):
    """Frames to stored tokens: normalisation, vision tower, the frame's half of the video map."""

    rotary: Tensor | None

    def __init__(self, model: R2Tuning, clip: ClipTowers) -> None:
        super().__init__()
        config, width = clip.config, clip.config.vision_width
        kind = config.vision
        self.read = model.config.read
        self.patch = config.patch_size
        self.grid = config.image_size // self.patch
        self.patch_weight = weight(self.patch**2 * 3, width)
        self.cls = weight(1, 1, width) if kind.class_token else None
        self.mean_first = kind.frame_token == "mean"
        self.positions = weight(self.grid**2, width)
        self.ln_pre = None if clip.vision.ln_pre is None else norm_like(clip.vision.ln_pre)
        self.blocks = nn.ModuleList(TowerBlock(cast("Block", x)) for x in clip.vision.blocks)
        self.register_buffer("rotary", clip.vision.rotary, persistent=False)
        self.tokens = FrameTokens(model)
        self.projection: FrameProjection | None = None
        if config.embed_width is not None:
            self.projection = FrameProjection(clip.vision_projection)
        found = folds.video_encoder(
            model_tensors(model),
            clip_tensors(clip),
            heads=config.vision_heads,
            use_tef=model.config.use_tef,
            mean=config.mean,
            std=config.std,
            rotary=kind.rotary is not None,
            pool_heads=kind.pool_heads if self.projection else 0,
        )
        load_weights(self, found)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Map frames (B, S, S, 3) uint8 to tokens (B, K, P, C) and CLIP's embedding (B, E)."""
        side = self.grid * self.patch
        if side < frames.shape[1]:
            # The cast comes first: TensorRT's parser slices no uint8.
            x = frames.to(torch.float32)[:, :side, :side]
        else:
            # A slice of everything is no node, but it counts in the names of the published graphs.
            x = frames[:, :side, :side].to(torch.float32)
        x = x.view(-1, self.grid, self.patch, self.grid, self.patch * 3)
        x = x.transpose(2, 3).reshape(-1, self.grid**2, self.patch**2 * 3)
        x = x @ self.patch_weight + self.positions  # (B, patches, Cv)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1)
        if self.ln_pre is not None:
            x = self.ln_pre(x)
        hidden, last = run_tower(x, self.blocks, self.read, rotary=self.rotary)
        if self.mean_first:
            hidden, last = self._mean_first(hidden), self._mean_first(last)
        tokens: Tensor = self.tokens(hidden)
        if self.projection is None:
            return (tokens,)
        if self.read[-1] == -1:
            last = hidden[:, -1]
        # A mean that stands first is not one of the tokens that are pooled.
        if self.mean_first and self.projection.pool is not None:
            last = last[:, 1:]
        return tokens, self.projection(last)

    def _mean_first(self, hidden: Tensor) -> Tensor:
        """Put the mean of the patches of (..., N, Cv) first, in place of a class token."""
        patches = hidden if self.cls is None else hidden[..., 1:, :]
        return torch.cat([patches.mean(dim=-2, keepdim=True), patches], dim=-2)


class VideoFinalizer(nn.Module):
    """Stored tokens and each clip's endpoints to v; see the module's formula."""

    def __init__(self, model: R2Tuning) -> None:
        super().__init__()
        self.channels = model.config.vision_width
        self.width = model.config.width
        self.rows = weight(4, self.width)
        self.norm = nn.LayerNorm(self.width)
        self.linear = Linear(self.width, self.width)
        load_weights(self, folds.video_finalizer(model_tensors(model)))

    def forward(self, tokens: Tensor, endpoints: Tensor) -> Tensor:
        """Map tokens (T, K, P, D + 2) and endpoints (T, 2) to v (T, K, P, D)."""
        projected = tokens[..., : self.width]
        mean = tokens[..., self.width : self.width + 1]  # (T, K, P, 1)
        square = tokens[..., self.width + 1 :]
        start = endpoints[:, None, None, :1]  # (T, 1, 1, 1)
        end = endpoints[:, None, None, 1:]
        total = self.channels + 2
        centre = mean * (self.channels / total) + (start + end) / total
        dm, ds, de = mean - centre, start - centre, end - centre
        variance = (square + self.channels * dm * dm + ds * ds + de * de) / total
        inverse = torch.rsqrt(variance + self.norm.eps)
        factors = torch.cat([dm * inverse, ds * inverse, de * inverse, torch.ones_like(dm)], dim=-1)
        h = projected * inverse + factors @ self.rows
        v: Tensor = self.linear(self.norm(h.relu()))
        return v
