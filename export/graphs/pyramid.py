"""The temporal pyramid and its heads for any number of clips, without a branch on it.

The authors leave out a level whose stride exceeds the number of clips. Here time is padded so that
every level has rows, all levels stand in one sequence, and what is not real is set to zero before
each convolution: the zeros between two levels are what each level's own padding would be. Real
points are cut out at the end; a level without any leaves nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from export.graphs.layers import constant

if TYPE_CHECKING:
    from training.model import R2Tuning

__all__ = ["LevelHeads", "Pyramid"]


class Pyramid(nn.Module):
    """Clips to the levels' rows: themselves, or per octave Conv1d(2, stride 2), LN, ReLU."""

    def __init__(self, model: R2Tuning) -> None:
        super().__init__()
        self.strides = model.config.strides
        chains = [list(cast("nn.Sequential", block)) for block in model.pyramid.blocks[1:]]
        convs = [[x for x in chain if isinstance(x, nn.Conv1d)] for chain in chains]
        norms = [[x for x in chain if isinstance(x, nn.LayerNorm)] for chain in chains]
        # The first octave of every level reads the clips: one product serves all of them.
        if chains:
            self.first = constant(torch.cat([_pair_weight(conv[0]) for conv in convs], dim=1))
            self.first_bias = constant(torch.cat([_bias(conv[0]) for conv in convs]))
        self.norms = nn.ModuleList(nn.ModuleList(norm) for norm in norms)
        self.weights = nn.ModuleList(
            nn.ParameterList(constant(_pair_weight(x)) for x in conv[1:]) for conv in convs
        )
        self.biases = nn.ModuleList(
            nn.ParameterList(constant(_bias(x)) for x in conv[1:]) for conv in convs
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
            for norm, weight, bias in zip(
                rest,
                cast("nn.ParameterList", weights),
                cast("nn.ParameterList", biases),
                strict=True,
            ):
                level = level.reshape(queries, -1, 2 * width) @ weight + bias
                level = norm(level).relu()
            levels.append(level)
        return levels


class LevelHeads(nn.Module):
    """Class and coordinate head, run side by side over all levels: Conv1d 3, ReLU, Conv1d 3."""

    def __init__(self, model: R2Tuning) -> None:
        super().__init__()
        self.strides = model.config.strides
        heads = [head.module for head in (model.class_head, model.coord_head) if head is not None]
        inner = [cast("nn.Conv1d", head[1]) for head in heads]
        outer = [cast("nn.Conv1d", head[3]) for head in heads]
        width = model.config.width
        outputs = sum(conv.out_channels for conv in outer)
        self.inner = nn.Conv1d(width, width * len(heads), 3, padding=1)
        self.inner.weight = constant(torch.cat([conv.weight for conv in inner]))
        self.inner.bias = constant(torch.cat([_bias(conv) for conv in inner]))
        self.outer = nn.Conv1d(width * len(heads), outputs, 3, padding=1)
        weight = torch.zeros(outputs, width * len(heads), 3)
        row = 0
        for index, conv in enumerate(outer):
            columns = slice(index * width, (index + 1) * width)
            weight[row : row + conv.out_channels, columns] = conv.weight.detach()
            row += conv.out_channels
        self.outer.weight = constant(weight)
        self.outer.bias = constant(torch.cat([_bias(conv) for conv in outer]))
        self.coef = model.coef.tolist() if model.coord_head is not None else None

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


def _pair_weight(conv: nn.Conv1d) -> Tensor:
    """Weight (D, D', 2) of a convolution of two clips as the matrix (2D', D) of a product."""
    return conv.weight.permute(2, 1, 0).flatten(0, 1)


def _bias(conv: nn.Conv1d) -> Tensor:
    return torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
