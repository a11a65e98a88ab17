"""R²-Tuning in plain PyTorch: CLIP's hidden states and a query in, moments and saliency out."""

from __future__ import annotations

from training.model.adapter import R2Block
from training.model.config import Padding, R2Config
from training.model.heads import ConvHead, QueryPooling
from training.model.pyramid import ConvPyramid
from training.model.r2_tuning import R2Output, R2Tuning, decode_boundaries, stretch_levels
from training.model.temporal import MultiHeadAttention, TemporalLayer, sine_positions

__all__ = [
    "ConvHead",
    "ConvPyramid",
    "MultiHeadAttention",
    "Padding",
    "QueryPooling",
    "R2Block",
    "R2Config",
    "R2Output",
    "R2Tuning",
    "TemporalLayer",
    "decode_boundaries",
    "sine_positions",
    "stretch_levels",
]
