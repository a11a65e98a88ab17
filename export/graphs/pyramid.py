"""The temporal pyramid and its heads for any number of clips, without branches.

The authors leave out a level whose stride exceeds the number of clips. Here time is padded so that
every level has rows, and all levels are concatenated to one sequence. Padded rows are set to zero
before each convolution, so the zeros between two levels serve as the padding of both. At the end
the real points are selected; a level may have none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from export.graphs.layers import weight

if TYPE_CHECKING:
    from training.model.config import R2Config

__all__ = ["LevelHeads", "Pyramid"]


class Pyramid(nn.Module):
    """Clips to the levels' rows: themselves, or per octave Conv1d(2, stride 2), LN, ReLU."""

    def __init__(self, config: R2Config) -> None:
        super().__init__()
        self.strides = config.strides
        width, levels = config.width, range(1, len(config.strides))
        # The first octave of every level reads the clips: one product serves all of them.
        if levels:
            self.first = weight(2 * width, len(levels) * width)
            self.first_bias = weight(len(levels) * width)
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.LayerNorm(width) for _ in range(level)) for level in levels
        )
        self.weights = nn.ModuleList(
            nn.ParameterList(weight(2 * width, width) for _ in range(level - 1)) for level in levels
        )
        self.biases = nn.ModuleList(
            nn.ParameterList(weight(width) for _ in range(level - 1)) for level in levels
        )

    def forward(self, video: Tensor) -> list[Tensor]:
        """Map clips (N, T, D) to levels (N, T' / stride, D), T' > T + the largest stride.

        Rows from T // stride on are arbitrary.
        """
        if len(self.strides) == 1:
            return [video]
        queries, clips, width = video.shape
        longest = self.strides[-1]
        padding = video.new_zeros(queries, 2 * longest, width)
        padded_clips = (clips // longest + 2) * longest
        padded = torch.cat([video, padding], dim=1)[:, :padded_clips]
        levels = [padded]
        pairs = padded.reshape(queries, -1, 2 * width)  # two clips side by side
        for x, norms, weights, biases in zip(
            (pairs @ self.first + self.first_bias).chunk(len(self.strides) - 1, dim=-1),
            self.norms,
            self.weights,
            self.biases,
            strict=True,
        ):
            first, *rest = cast("nn.ModuleList", norms)
            level = first(x).relu()
            for norm, matrix, bias in zip(
                rest,
                cast("nn.ParameterList", weights),
                cast("nn.ParameterList", biases),
                strict=True,
            ):
                level = level.reshape(queries, -1, 2 * width) @ matrix + bias
                level = norm(level).relu()
            levels.append(level)
        return levels


class LevelHeads(nn.Module):
    """Class and coordinate head, run side by side over all levels: Conv1d 3, ReLU, Conv1d 3."""

    def __init__(self, config: R2Config) -> None:
        super().__init__()
        self.strides = config.strides
        width, heads = config.width, 2 if config.has_offsets else 1
        self.inner = nn.Conv1d(width, width * heads, 3, padding=1)
        self.outer = nn.Conv1d(width * heads, 3 if config.has_offsets else 1, 3, padding=1)
        self.coef = (
            nn.ParameterList(weight(1) for _ in config.strides) if config.has_offsets else None
        )

    def forward(self, levels: list[Tensor], clips: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Score the levels (N, T' / stride, D) of a video of T clips.

        Returns:
            class logits (N, M); offsets (N, M, 2) in strides, or None; the highest score of all
            levels at each clip (N, T).
        """
        lengths = [clips // stride for stride in self.strides]
        mask = None
        if len(levels) > 1:
            mask = torch.cat(
                [
                    (torch.arange(level.shape[1]) < length).to(level.dtype)
                    for level, length in zip(levels, lengths, strict=True)
                ]
            )
        x = torch.cat(levels, dim=1).transpose(1, 2)  # (N, D, all rows)
        x = self.inner(x if mask is None else x * mask).relu()
        x = self.outer(x if mask is None else x * mask)  # (N, 1 or 3, all rows)
        starts = [sum(level.shape[1] for level in levels[:i]) for i in range(len(levels))]
        spans = list(zip(starts, lengths, strict=True))
        logits = x[:, 0]
        class_logits = torch.cat([logits[:, a : a + n] for a, n in spans], dim=1)
        offsets = None
        if self.coef is not None:
            distances = x[:, 1:].exp().transpose(1, 2)
            offsets = torch.cat(
                [
                    distances[:, a : a + n] * coef
                    for (a, n), coef in zip(spans, self.coef, strict=True)
                ],
                dim=1,
            )
        return class_logits, offsets, self._stretched(logits, spans, clips).sigmoid()

    def _stretched(self, logits: Tensor, spans: list[tuple[int, int]], clips: int) -> Tensor:
        """Stretch each level's logits (N, all rows) to the clips, take the highest: (N, T).

        A level of n points repeats each logit T // n times and its last to the end. A level without
        points shows the first level's logits, which change no maximum.
        """
        if len(spans) == 1:
            return logits
        index = torch.arange(clips)
        # Half a clip on, no engine's inexact division ends at the point before.
        middle = index.float() + 0.5
        rows = []
        for start, length in spans:
            repeats = cast("int", clips // torch.sym_max(length, 1))
            row = (middle / repeats).long().clamp(max=length - 1)
            rows.append(torch.where(row < 0, index, row + start))
        shown = logits.index_select(1, torch.cat(rows))  # (N, levels · T)
        return torch.unflatten(shown, 1, (len(spans), -1)).amax(dim=1)
