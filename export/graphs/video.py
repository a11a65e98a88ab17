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

from export.graphs.layers import TowerBlock, constant, run_tower

if TYPE_CHECKING:
    from training.clip import Block, ClipTowers
    from training.model import R2Tuning

__all__ = ["FrameTokens", "VideoEncoder", "VideoFinalizer"]


class FrameTokens(nn.Module):
    """Hidden states of a frame to its stored tokens: p, m, M2 with endpoint features, else v."""

    def __init__(self, model: R2Tuning) -> None:
        super().__init__()
        self.use_tef = model.config.use_tef
        if not self.use_tef:
            self.video_map = model.adapter.video_map
            return
        norm, linear = _first_stage(model)
        channels = model.config.vision_width
        self.weight = constant((linear.weight * norm.weight)[:, :channels].T)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden states (B, K, P, Cv) to tokens (B, K, P, D + 2), or (B, K, P, D)."""
        if not self.use_tef:
            v: Tensor = self.video_map(hidden)
            return v
        mean = hidden.mean(dim=-1, keepdim=True)
        centred = hidden - mean
        square = (centred * centred).sum(dim=-1, keepdim=True)
        return torch.cat([centred @ self.weight, mean, square], dim=-1)


class VideoEncoder(nn.Module):
    """Frames to stored tokens: normalisation, vision tower, the frame's half of the video map."""

    def __init__(self, model: R2Tuning, clip: ClipTowers) -> None:
        super().__init__()
        vision = clip.vision
        self.layers = model.config.layers
        self.patch = clip.config.patch_size
        self.grid = clip.config.image_size // self.patch
        weight = vision.conv1.weight.double()  # (Cv, 3, p, p)
        mean, std = (x.double().view(1, 3, 1, 1) for x in (vision.mean, vision.std))
        # Σ w·(x - mean)/std over a patch = Σ (w/std)·x - Σ (w/std)·mean, x in 0..255.
        scaled = weight / std
        self.patch_weight = constant(scaled.permute(2, 3, 1, 0).flatten(0, 2))  # (p·p·3, Cv)
        shift = -(scaled * mean).sum(dim=(1, 2, 3))
        positions = vision.positional_embedding.double()
        self.cls = constant((vision.class_embedding.double() + positions[0]).view(1, 1, -1))
        self.positions = constant(positions[1:] + shift)  # (P - 1, Cv)
        self.ln_pre = vision.ln_pre
        self.blocks = nn.ModuleList(TowerBlock(cast("Block", block)) for block in vision.blocks)
        self.tokens = FrameTokens(model)

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames (B, S, S, 3) uint8 to tokens (B, K, P, C)."""
        side = self.grid * self.patch
        x = frames[:, :side, :side].to(torch.float32)
        x = x.view(-1, self.grid, self.patch, self.grid, self.patch * 3)
        x = x.transpose(2, 3).reshape(-1, self.grid**2, self.patch**2 * 3)
        x = x @ self.patch_weight + self.positions  # (B, P - 1, Cv)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1)
        hidden = run_tower(self.ln_pre(x), self.blocks, self.layers)
        tokens: Tensor = self.tokens(hidden)
        return tokens


class VideoFinalizer(nn.Module):
    """Stored tokens and each clip's endpoints to v; see the module's formula."""

    def __init__(self, model: R2Tuning) -> None:
        super().__init__()
        norm, linear = _first_stage(model)
        self.channels = model.config.vision_width
        self.width = model.config.width
        self.eps = norm.eps
        weight = (linear.weight * norm.weight).double()  # W', (D, Cv + 2)
        offset = linear.weight.double() @ norm.bias.double() + linear.bias.double()
        # Rows that (m - μ, s - μ, e - μ) / √(σ² + ε) and 1 are multiplied with, (4, D).
        rows = [weight[:, : self.channels].sum(dim=1), weight[:, -2], weight[:, -1], offset]
        self.rows = constant(torch.stack(rows))
        self.norm = cast("nn.LayerNorm", model.adapter.video_map[4])
        self.linear = cast("nn.Linear", model.adapter.video_map[6])

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
        inverse = torch.rsqrt(variance + self.eps)
        factors = torch.cat([dm * inverse, ds * inverse, de * inverse, torch.ones_like(dm)], dim=-1)
        h = projected * inverse + factors @ self.rows
        v: Tensor = self.linear(self.norm(h.relu()))
        return v


def _first_stage(model: R2Tuning) -> tuple[nn.LayerNorm, nn.Linear]:
    stages = model.adapter.video_map
    return cast("nn.LayerNorm", stages[0]), cast("nn.Linear", stages[2])
