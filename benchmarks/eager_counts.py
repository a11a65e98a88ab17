"""What PyTorch eager launches and moves for the R² block, by the operators that it dispatches.

The model runs on tensors without data, so that any number of clips can be counted. Each operator
that computes is taken for one launch that reads its arguments and writes its results once; views
and allocations are none. The test compares the operators with those that PyTorch's profiler sees.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training.model.adapter import R2Block, temporal_endpoints
from training.model.config import R2Config
from training.model.temporal import sine_positions

__all__ = ["Eager", "Shape", "count_calls", "maps", "recurrence"]

# Operators that neither compute nor copy, besides views.
_FREE = {"_unsafe_view", "detach", "empty", "empty_like", "empty_strided", "new_empty"}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one run of the R² block: T clips, L query tokens, P patches, K layers, widths."""

    clips: int
    length: int = 12
    patches: int = 50
    layers: int = 4
    width: int = 256
    heads: int = 8
    vision_width: int = 768


@dataclass(frozen=True, kw_only=True)
class Eager:
    """What eager does.

    Attributes:
        launches: operators that compute, by name.
        nbytes: what they read and write.
        largest: bytes of the largest result.
    """

    launches: Counter[str]
    nbytes: int
    largest: int


def recurrence(shape: Shape, dtype: torch.dtype, device: str = "meta") -> Callable[[], object]:
    """Return a call of the recurrence for one query: what the kernels' 3 + 3·K launches compute."""
    block = _block(shape, dtype, device)

    def like(*sizes: int) -> Tensor:
        return torch.zeros(sizes, dtype=dtype, device=device)

    v = [like(1, shape.clips, shape.patches, shape.width) for _ in range(shape.layers)]
    q = [like(1, shape.length, shape.width) for _ in range(shape.layers)]
    lengths = torch.full((1,), shape.clips, device=device)

    def run() -> object:
        positions = sine_positions(lengths, shape.clips, shape.width, dtype=dtype)
        last = None
        for layer in reversed(range(shape.layers)):
            f = block.pool_step(v[layer], q[layer], last, layer)
            last = block.tem(f, positions, q[layer], None, None)
        return last

    return run


def maps(shape: Shape, dtype: torch.dtype, device: str = "meta") -> Callable[[], object]:
    """Return a call of the video map for every layer: CLIP's hidden states to v."""
    block = _block(shape, dtype, device)
    sizes = (1, shape.clips, shape.layers, shape.patches, shape.vision_width)
    video = torch.zeros(sizes, dtype=dtype, device=device)
    lengths = torch.full((1,), shape.clips, device=device)

    def run() -> object:
        endpoints = temporal_endpoints(lengths, shape.clips, dtype)
        return [block.map_video(video[:, :, layer], endpoints) for layer in range(shape.layers)]

    return run


def count_calls(run: Callable[[], object]) -> Eager:
    """Count the operators of a call."""
    counter = _Counter()
    # Inference mode would hide what composite operators are made of.
    with torch.no_grad(), counter:
        run()
    return Eager(launches=counter.launches, nbytes=counter.nbytes, largest=counter.largest)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches: Counter[str] = Counter()
        self.nbytes = 0
        self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        results = list(_sizes(result))
        if not results or func.is_view or name in _FREE:
            return result
        self.launches[name] += 1
        self.nbytes += sum(_sizes((args, kwargs))) + sum(results)
        self.largest = max([self.largest, *results])
        return result


def _sizes(tree: object) -> Iterator[int]:
    for x in tree_leaves(tree):
        if isinstance(x, Tensor):
            # A broadcast dimension is read once.
            real = (n for n, step in zip(x.shape, x.stride(), strict=True) if step)
            yield math.prod(real) * x.element_size()


def _block(shape: Shape, dtype: torch.dtype, device: str) -> R2Block:
    config = R2Config(
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        vision_width=shape.vision_width,
    )
    with torch.device(device):
        return R2Block(config).to(dtype).eval()
