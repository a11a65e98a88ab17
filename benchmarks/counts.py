"""Arithmetic and traffic of each stage, counted from shapes.

A multiplication with its addition counts as two operations. Only matrix products count: what else a
stage does is what it loses against the roofline. Bytes are what must be moved at least once: the
weights, the inputs and the outputs; activations are taken to stay in the caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from r2rt.model.contract import ModelDims, level_lengths

if TYPE_CHECKING:
    from training.clip_config import ClipConfig

__all__ = ["Work", "finalizer", "grounder", "text_encoder", "video_encoder"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one call of a stage has to do.

    Attributes:
        flops: operations of its matrix products.
        weights: numbers in their weights.
        io_bytes: bytes of inputs and outputs.
    """

    flops: float
    weights: float
    io_bytes: float

    def total_bytes(self, weight_bytes: float) -> float:
        """Return the least traffic in bytes where a weight takes `weight_bytes`."""
        return self.weights * weight_bytes + self.io_bytes


def video_encoder(dims: ModelDims, clip: ClipConfig, frames: int) -> Work:
    """Count B frames through the vision tower and the frame's half of the video map."""
    p, c, layers = dims.patches, clip.vision_width, clip.vision_layers
    patch = 3 * clip.patch_size**2 * c
    block = _block_weights(c, clip.vision_mlp_width)
    mapped = c * dims.width + (0 if dims.use_tef else dims.width**2)
    macs = (p - 1) * patch + layers * (p * block + 2 * p * p * c) + dims.layers * p * mapped
    pixels = 3 * dims.image_size**2
    return Work(
        flops=2 * frames * macs,
        weights=patch + layers * block + mapped,
        io_bytes=frames * (pixels + 4 * dims.layers * p * dims.token_width),
    )


def finalizer(dims: ModelDims, clips: int) -> Work:
    """Count T clips' tokens, finalised: four rows of endpoints, then a square layer."""
    tokens = clips * dims.layers * dims.patches
    weights = 4 * dims.width + dims.width**2
    return Work(
        flops=2 * tokens * weights,
        weights=weights,
        io_bytes=4 * tokens * (dims.token_width + dims.width),
    )


def text_encoder(dims: ModelDims, clip: ClipConfig, queries: int, length: int) -> Work:
    """Count N queries of L tokens through the text tower, the query map and the key map."""
    c, d = clip.text_width, dims.width
    block = _block_weights(c, clip.text_mlp_width)
    mapped = c * d + 2 * d * d
    macs = (
        clip.text_layers * (length * block + 2 * length * length * c)
        + dims.layers * length * mapped
    )
    return Work(
        flops=2 * queries * macs,
        weights=clip.text_layers * block + mapped,
        io_bytes=queries * length * (8 + 4 * c + 2 * 4 * dims.layers * d),
    )


def grounder(dims: ModelDims, clips: int, queries: int, length: int) -> Work:
    """Count N queries of L tokens in T clips: pooling, K temporal steps, pyramid, heads."""
    d, k, p = dims.width, dims.layers, dims.patches
    pooling = 2 * clips * k * length * p * d
    # Cross-attention to the query, attention over time, and the feed-forward layer.
    step_weights = 4 * d * d + 4 * d * d + 8 * d * d
    step = (
        clips * (step_weights - 2 * d * d)
        + length * 2 * d * d
        + 2 * clips * length * d
        + 2 * clips * clips * d
    )
    lengths = level_lengths(clips, dims.strides)
    # Level n has n convolutions of its own, each over half as many clips as the one before.
    octaves = [
        [clips >> (octave + 1) for octave in range(stride.bit_length() - 1)]
        for stride in dims.strides
    ]
    pyramid = 2 * d * d * sum(map(sum, octaves))
    outputs = (1, 2) if dims.has_offsets else (1,)
    head = sum(3 * d * d + 3 * d * n for n in outputs)
    macs = queries * (pooling + k * step + pyramid + sum(lengths) * head)
    weights = step_weights + 2 * d * d * sum(map(len, octaves)) + head
    v_bytes = 4 * clips * k * p * d
    return Work(
        flops=2 * macs,
        weights=weights,
        io_bytes=v_bytes + 4 * queries * (2 * k * length * d + clips + 3 * sum(lengths)),
    )


def _block_weights(width: int, mlp_width: int) -> int:
    """Return the weights of a transformer block: also its products a token, attention apart."""
    return 4 * width * width + 2 * width * mlp_width
