"""Building blocks that several graphs share, written so that they become few, large operators."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.clip import openai_name

if TYPE_CHECKING:
    from training.clip import Block, ClipTowers
    from training.clip_towers import Projection as TowerProjection
    from training.model import R2Tuning

__all__ = [
    "Linear",
    "Projection",
    "TowerBlock",
    "attend",
    "clip_tensors",
    "input_map",
    "key_bias",
    "load_weights",
    "model_tensors",
    "norm_like",
    "run_tower",
    "weight",
]

Arrays = dict[str, NDArray[Any]]


def model_tensors(model: R2Tuning) -> Arrays:
    """Return the model's tensors by the published names, for `r2rt.model.convert.folds`."""
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def clip_tensors(clip: ClipTowers) -> Arrays:
    """Return the towers' tensors by OpenAI's names, for `r2rt.model.convert.folds`."""
    return {openai_name(name): tensor.numpy() for name, tensor in clip.state_dict().items()}


def load_weights(module: nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Give a module its weights, all of them, frozen; it shares no memory with the arrays."""
    state = {name: torch.tensor(array) for name, array in weights.items()}
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False)


def weight(*shape: int) -> nn.Parameter:
    """Return a parameter that `load_weights` gives its values."""
    return nn.Parameter(torch.empty(shape, device="meta"))


class Linear(nn.Module):
    """x·W + b with W (inputs, outputs), which ONNX computes as it stands."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = weight(inputs, outputs), weight(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return x @ self.weight + self.bias


class Projection(nn.Module):
    """LN(x)·W + b: from a tower's last state to CLIP's embedding."""

    def __init__(self, like: TowerProjection) -> None:
        super().__init__()
        self.norm = norm_like(like.norm)
        self.weight = None if like.weight is None else weight(*like.weight.shape)
        self.bias = None if like.bias is None else weight(*like.bias.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to (..., E)."""
        return self.project(self.norm(x))

    def project(self, x: Tensor) -> Tensor:
        """Return x·W + b."""
        if self.weight is not None:
            x = x @ self.weight
        return x if self.bias is None else x + self.bias


def input_map(inputs: int, width: int) -> nn.Sequential:
    """LN, Linear, ReLU, LN, Linear, by the places that they have in the published model."""
    steps = {0: nn.LayerNorm(inputs), 2: Linear(inputs, width), 3: nn.ReLU()}
    steps |= {4: nn.LayerNorm(width), 6: Linear(width, width)}
    found = nn.Sequential()
    for place, step in steps.items():
        found.add_module(str(place), step)
    return found


def key_bias(mask: Tensor) -> Tensor:
    """Return 0 where mask is 1 and -inf where it is 0: added before a softmax or a maximum."""
    return torch.where(mask > 0.5, 0.0, -math.inf)


def norm_like(norm: nn.LayerNorm) -> nn.LayerNorm:
    """Return a norm of the same width and ε, which `load_weights` gives its weights."""
    return nn.LayerNorm(norm.normalized_shape, eps=norm.eps)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    bias: Tensor | None = None,
    rotary: Tensor | None = None,
) -> Tensor:
    """Multi-head attention, the factor 1/√d being part of q already.

    Args:
        q: (B, N, D).
        k: (B, S, D).
        v: (B, S, D).
        heads: number of heads H.
        bias: added to the scores, broadcast to (B, H, N, S).
        rotary: cos and sin (2, N, d / 2) that channel n of a head of q and k is rotated by,
            together with channel n + d / 2.

    Returns:
        (B, N, D).
    """
    queries = torch.unflatten(q, -1, (heads, -1)).transpose(1, 2)  # (B, H, N, d)
    if rotary is None:
        keys = torch.unflatten(k, -1, (heads, -1)).permute(0, 2, 3, 1)  # (B, H, d, S)
    else:
        queries = _rotated(queries, rotary)
        keys = torch.unflatten(k, -1, (heads, -1)).transpose(1, 2)
        keys = _rotated(keys, rotary).transpose(-1, -2)
    values = torch.unflatten(v, -1, (heads, -1)).transpose(1, 2)  # (B, H, S, d)
    scores = queries @ keys  # (B, H, N, S)
    if bias is not None:
        scores = scores + bias
    return (scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2)


def _rotated(x: Tensor, rotary: Tensor) -> Tensor:
    cos, sin = rotary[0], rotary[1]
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class TowerBlock(nn.Module):
    """A pre-LN block of a CLIP tower, without its weights."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        width, inner = block.qkv.in_features, block.fc.out_features
        self.heads = block.heads
        self.ln_1, self.ln_2 = norm_like(block.ln_1), norm_like(block.ln_2)
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.fc, self.act, self.proj = Linear(width, inner), block.act, Linear(inner, width)

    def forward(
        self, x: Tensor, bias: Tensor | None = None, rotary: Tensor | None = None
    ) -> Tensor:
        """Map tokens (B, N, C) to (B, N, C); see `attend` for bias and rotary."""
        q, k, v = self.qkv(self.ln_1(x)).chunk(3, dim=-1)
        x = x + self.out(attend(q, k, v, self.heads, bias, rotary))
        out: Tensor = x + self.proj(self.act(self.fc(self.ln_2(x))))
        return out


def run_tower(
    x: Tensor,
    blocks: Iterable[nn.Module],
    read: Sequence[int],
    bias: Tensor | None = None,
    rotary: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run tokens (B, N, C) through all blocks.

    Returns:
        The outputs of the blocks that are read, counted from the last, -1: (B, K, N, C); and of
        the last block (B, N, C).
    """
    outputs = []
    for block in blocks:
        x = block(x, bias, rotary)
        outputs.append(x)
    return torch.stack([outputs[place] for place in read], dim=1), x
