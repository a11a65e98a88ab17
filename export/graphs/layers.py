"""Building blocks that several graphs share, written so that they become few, large operators."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from training.clip import Block

__all__ = ["TowerBlock", "attend", "constant", "key_bias", "run_tower", "stacked_linear"]


def constant(x: Tensor) -> nn.Parameter:
    """Hold a copy of x as a frozen fp32 parameter."""
    return nn.Parameter(x.detach().to(torch.float32).clone(), requires_grad=False)


def stacked_linear(*linears: nn.Linear, scales: Iterable[float] | None = None) -> nn.Linear:
    """Return one Linear: the outputs of `linears` side by side, each times a scale."""
    factors = tuple(scales) if scales is not None else (1.0,) * len(linears)
    weight = torch.cat([x.weight * s for x, s in zip(linears, factors, strict=True)])
    biases = [
        torch.zeros(x.out_features) if x.bias is None else x.bias * s
        for x, s in zip(linears, factors, strict=True)
    ]
    out = nn.Linear(weight.shape[1], weight.shape[0])
    out.weight, out.bias = constant(weight), constant(torch.cat(biases))
    return out


def key_bias(mask: Tensor) -> Tensor:
    """Return 0 where mask is 1 and -inf where it is 0: added before a softmax or a maximum."""
    return torch.where(mask > 0.5, 0.0, -math.inf)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Multi-head attention, the factor 1/√d being part of q already.

    Args:
        q: (B, N, D).
        k: (B, S, D).
        v: (B, S, D).
        heads: number of heads H.
        bias: added to the scores, broadcast to (B, H, N, S).

    Returns:
        (B, N, D).
    """
    queries = torch.unflatten(q, -1, (heads, -1)).transpose(1, 2)  # (B, H, N, d)
    keys = torch.unflatten(k, -1, (heads, -1)).permute(0, 2, 3, 1)  # (B, H, d, S)
    values = torch.unflatten(v, -1, (heads, -1)).transpose(1, 2)  # (B, H, S, d)
    scores = queries @ keys  # (B, H, N, S)
    if bias is not None:
        scores = scores + bias
    return (scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2)


class TowerBlock(nn.Module):
    """A pre-LN block of a CLIP tower."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        width = block.qkv.in_features
        scale = (width // block.heads) ** -0.5
        factors = torch.ones(3 * width)
        factors[:width] = scale
        self.heads = block.heads
        self.ln_1, self.ln_2 = block.ln_1, block.ln_2
        self.qkv = nn.Linear(width, 3 * width)
        self.qkv.weight = constant(block.qkv.weight * factors[:, None])
        self.qkv.bias = constant(block.qkv.bias * factors)
        self.out, self.fc, self.act, self.proj = block.out, block.fc, block.act, block.proj

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map tokens (B, N, C) to (B, N, C); bias is added to the attention's scores."""
        q, k, v = self.qkv(self.ln_1(x)).chunk(3, dim=-1)
        x = x + self.out(attend(q, k, v, self.heads, bias))
        out: Tensor = x + self.proj(self.act(self.fc(self.ln_2(x))))
        return out


def run_tower(
    x: Tensor, blocks: Iterable[nn.Module], layers: int, bias: Tensor | None = None
) -> Tensor:
    """Run tokens (B, N, C) through all blocks; return the last ones' outputs, (B, K, N, C)."""
    outputs = []
    for block in blocks:
        x = block(x, bias)
        outputs.append(x)
    return torch.stack(outputs[-layers:], dim=1)
