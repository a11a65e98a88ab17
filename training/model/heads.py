"""What turns embeddings into answers: the convolutional heads and the pooling of the query."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.model.pyramid import Transpose

__all__ = ["ConvHead", "QueryPooling"]


class ConvHead(nn.Module):
    """Conv1d 3, ReLU, Conv1d 3 along time; shared by the pyramid's levels."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.module = nn.Sequential(
            Transpose(),
            nn.Conv1d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(width, outputs, 3, padding=1),
            Transpose(),
        )

    def forward(self, x: Tensor, point_mask: Tensor | None = None) -> Tensor:
        """Map a level (B, M, D) to (B, M, outputs).

        Args:
            x: the level's points.
            point_mask: True for points that exist, (B, M). A convolution sees the others as it
                sees what lies beyond a level's end: as zeros.
        """
        if point_mask is None:
            out: Tensor = self.module(x)
            return out
        for step in self.module:
            if isinstance(step, nn.Conv1d):
                # (B, D, M)
                x = x * point_mask[:, None]
            x = step(x)
        return x


class QueryPooling(nn.Module):
    """Mean of the query's tokens, weighted by a softmax of their product with a learned vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.att = nn.Linear(width, 1, bias=False)

    def forward(self, q: Tensor, query_mask: Tensor | None = None) -> Tensor:
        """Pool tokens (B, L, D) to (B, D); query_mask (B, L) is True for real tokens."""
        scores = self.att(q)
        if query_mask is not None:
            scores = scores.masked_fill(~query_mask[..., None], -math.inf)
        # (B, 1, L) @ (B, L, D)
        return torch.squeeze(scores.softmax(dim=1).transpose(1, 2) @ q, dim=1)
