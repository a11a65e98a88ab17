"""The R² block in plain PyTorch in half precision: what `torch.compile` is given to compile.

Attention is PyTorch's own `scaled_dot_product_attention`, products are linear layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from kernels.weights import R2BlockWeights

__all__ = ["block"]


def block(
    v: Tensor, q: Tensor, q_key: Tensor, mask: Tensor, weights: R2BlockWeights, pe: Tensor
) -> Tensor:
    """Run the recurrence for N queries.

    Args:
        v: (T, K, P, D); the weights' matrices are of the same type.
        q: (N, K, L, D), likewise.
        q_key: (N, K, L, D), likewise.
        mask: nonzero for real tokens, (N, L).
        weights: packed, in v's type.
        pe: sine encoding (T, D), in v's type.

    Returns:
        last (N, T, D).
    """
    a, f, t = weights.query, weights.frame, weights.time
    heads, width, kind = weights.heads, v.shape[-1], v.dtype

    def split(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], heads, -1).transpose(-2, -3)

    def attend(queries: Tensor, keys: Tensor, values: Tensor, real: Tensor | None) -> Tensor:
        mixed = F.scaled_dot_product_attention(
            split(queries), split(keys), split(values), attn_mask=real, scale=1.0
        )
        return mixed.transpose(1, 2).flatten(2)

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, (width,), weight.to(kind), bias.to(kind))

    real, last = mask[:, None, None] != 0, None
    for layer in reversed(range(v.shape[1])):
        frames = v[None, :, layer]  # (1, T, P, D)
        attention = (q_key[:, None, layer] @ frames.transpose(-1, -2)).softmax(-1)
        pooled = attention @ frames + q[:, None, layer]
        pooled = pooled.masked_fill(mask[:, None, :, None] == 0, -1e4).amax(2)
        x = frames[:, :, 0] + weights.scales[layer].to(kind) * pooled
        if last is not None:
            x = weights.gates[layer] * x + (1 - weights.gates[layer]) * last
        tokens = q[:, layer]
        mixed = attend(
            F.linear(x + pe, a.cross_q, a.cross_q_bias.to(kind)),
            F.linear(tokens, a.cross_k),
            F.linear(tokens, a.cross_v),
            real,
        )
        x = norm(x + mixed @ a.cross_out + f.cross_out_bias.to(kind), f.norm_weight, f.norm_bias)
        bias = f.qkv_bias.to(kind)
        placed = F.linear(x + pe, f.qkv[: 2 * width], bias[: 2 * width])
        values = F.linear(x, f.qkv[2 * width :], bias[2 * width :])
        mixed = attend(placed[..., :width], placed[..., width:], values, None)
        x = norm(x + mixed @ t.out + t.out_bias.to(kind), t.norm_weight, t.norm_bias)
        hidden = F.linear(x, t.hidden, t.hidden_bias.to(kind)).relu()
        last = norm(
            x + hidden @ t.back + t.back_bias.to(kind), t.last_norm_weight, t.last_norm_bias
        )
    assert last is not None
    return last
