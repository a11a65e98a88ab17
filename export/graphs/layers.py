"""Building blocks that several graphs share, written so that they become few, large operators."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.clip import openai_name

if TYPE_CHECKING:
    from training.clip import Block, ClipTowers
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
    """LN(x)·W: from a tower's last state to CLIP's embedding."""

    def __init__(self, width: int, embed_width: int) -> None:
        super().__init__()
        self.norm, self.weight = nn.LayerNorm(width), weight(width, embed_width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to (..., E)."""
        embedding: Tensor = self.norm(x) @ self.weight
        return embedding


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
    """A pre-LN block of a CLIP tower, without its weights."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        width, inner = block.qkv.in_features, block.fc.out_features
        self.heads = block.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.fc, self.act, self.proj = Linear(width, inner), block.act, Linear(inner, width)

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
