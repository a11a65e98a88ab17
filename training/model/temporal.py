"""The temporal layer of the R² block: cross-attention to the query, then attention over time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["DropPath", "FeedForward", "MultiHeadAttention", "TemporalLayer", "sine_positions"]

_TEMPERATURE = 10000.0


def sine_positions(
    lengths: Tensor, num_clips: int, width: int, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Return the sine encoding of clip positions relative to the length of the video.

    Position n = 1..T becomes x = 2π·n / (T + 1e-6); channels 2i and 2i + 1 hold sin and cos of
    x / 10000^(2i / width). Computed in fp32 at least.

    Args:
        lengths: clips T of each video, (B,).
        num_clips: positions to encode; those beyond a video's length repeat its last.
        width: channels D, even.
        dtype: dtype of the result; fp32 by default.

    Returns:
        (B, num_clips, width).
    """
    dtype = torch.float32 if dtype is None else dtype
    work = torch.promote_types(dtype, torch.float32)
    lengths = lengths.to(work)[:, None]
    # (B, T)
    index = torch.arange(1, num_clips + 1, device=lengths.device, dtype=work)
    position = torch.minimum(index, lengths) / (lengths + 1e-6) * (2 * math.pi)
    pairs = torch.arange(width // 2, device=lengths.device, dtype=work)
    # (B, T, D / 2)
    angle = position[..., None] / _TEMPERATURE ** (2 * pairs / width)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2).to(dtype)


class MultiHeadAttention(nn.Module):
    """softmax(q·kᵀ / √d)·v over heads of width d, between four linear maps q, k, v and m (out).

    As in the published training, the maps start Xavier-uniform, their biases at 0.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.m = nn.Linear(width, width)
        for linear in (self.q, self.k, self.v, self.m):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attend from q (B, N, D) to keys k and values v (B, S, D).

        Args:
            q: queries.
            k: keys.
            v: values.
            key_mask: True for keys that exist, (B, S); at least one in each row. None for all.

        Returns:
            (B, N, D).
        """
        queries, keys, values = (
            self._split(self.q(q)),
            self._split(self.k(k)),
            self._split(self.v(v)),
        )
        # (B, H, N, S)
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None, None, :], -math.inf)
        mixed = scores.softmax(dim=-1) @ values
        out: Tensor = self.m(mixed.transpose(1, 2).flatten(-2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, D / H)."""
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Linear to four times the width, ReLU, Linear back.

    As in the published training, weights start normal with variance 2 / outputs (Kaiming, fan out),
    biases at 0.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        wide, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mapping = nn.Sequential(wide, nn.ReLU(), narrow)
        for linear in (wide, narrow):
            nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        out: Tensor = self.mapping(x)
        return out


class DropPath(nn.Module):
    """Leave a residual branch out for whole samples at random (Huang et al., arXiv 1603.09382)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Zero some samples of x (B, ...) in training and scale the others to keep the mean."""
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        kept = torch.empty((x.shape[0], *(1,) * (x.ndim - 1)), dtype=x.dtype, device=x.device)
        return x * kept.bernoulli_(keep) / keep


class TemporalLayer(nn.Module):
    """A post-norm transformer layer: cross-attention, self-attention, feed-forward.

    The cross-attention treats each clip on its own, so it belongs with the frame-local half of an
    R² step (`attend_query`); self-attention and feed-forward are the temporal half (`mix_time`).
    """

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.cross_att = MultiHeadAttention(width, heads)
        self.cross_att_norm = nn.LayerNorm(width)
        self.self_att = MultiHeadAttention(width, heads)
        self.self_att_norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width)
        self.ffn_norm = nn.LayerNorm(width)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        f: Tensor,
        positions: Tensor,
        q: Tensor,
        video_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Run both halves on clips f (B, T, D) and query tokens q (B, L, D); see the halves."""
        attended = self.attend_query(f, positions, q, query_mask)
        return self.mix_time(attended, positions, video_mask)

    def attend_query(
        self, f: Tensor, positions: Tensor, q: Tensor, query_mask: Tensor | None = None
    ) -> Tensor:
        """LN(f + attention(f + pe, q, q)).

        Args:
            f: clips (B, T, D).
            positions: pe, (B, T, D).
            q: query tokens (B, L, D).
            query_mask: True for real tokens, (B, L).

        Returns:
            (B, T, D).
        """
        attended = self.cross_att(f + positions, q, q, query_mask)
        out: Tensor = self.cross_att_norm(f + self.drop_path(attended))
        return out

    def mix_time(self, f: Tensor, positions: Tensor, video_mask: Tensor | None = None) -> Tensor:
        """LN(f + attention(f + pe, f + pe, f)), then LN(· + FFN(·)).

        Args:
            f: clips (B, T, D).
            positions: pe, (B, T, D).
            video_mask: True for real clips, (B, T).

        Returns:
            (B, T, D).
        """
        placed = f + positions
        mixed = self.self_att(placed, placed, f, video_mask)
        f = self.self_att_norm(f + self.drop_path(mixed))
        out: Tensor = self.ffn_norm(f + self.drop_path(self.ffn(f)))
        return out
