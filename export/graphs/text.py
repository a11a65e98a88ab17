"""`text_encoder`: from token ids to the query's tokens, keys and pooled vector, and its embedding.

The softmax over a frame's patches ignores what is the same for all of them, so
q_map(q)·v_map(v)ᵀ / √D may be replaced by q_key·vᵀ with q_key = q_map(q)·W_v / √D: the key map is
applied to L query tokens, once, instead of to every patch of the video.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from export.graphs.layers import (
    Linear,
    Projection,
    TowerBlock,
    clip_tensors,
    input_map,
    key_bias,
    load_weights,
    model_tensors,
    run_tower,
    weight,
)
from r2rt.model.convert import folds

if TYPE_CHECKING:
    from training.clip import Block, ClipTowers
    from training.model import R2Tuning

__all__ = ["QueryTokens", "RowEmbedding", "TextEncoder", "embedding_of"]

# A table is kept whole unless sharing rows takes it below this share of its size.
_WORTH_SHARING = 0.5


class QueryTokens(nn.Module):
    """Hidden states of a query to q, q_key and the pooled query."""

    def __init__(self, model: R2Tuning) -> None:
        super().__init__()
        width = model.config.width
        self.query_map = input_map(model.config.text_width, width)
        self.key_map = Linear(width, width)
        self.pooling = weight(width, 1)
        load_weights(self, folds.query_tokens(model_tensors(model)))

    def forward(self, hidden: Tensor, query_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map hidden states (N, K, L, Ct) and a mask (N, L), 1 for real tokens.

        Returns:
            q (N, K, L, D); q_key (N, K, L, D); pooled (N, D), the mean of the first layer's q
            weighted by a softmax of its product with a learned vector, over the real tokens.
        """
        q = self.query_map(hidden)
        first = q[:, 0]  # (N, L, D)
        scores = (first @ self.pooling).transpose(1, 2) + key_bias(query_mask)[:, None]  # (N, 1, L)
        pooled = (scores.softmax(dim=-1) @ first).squeeze(1)
        return q, self.key_map(q), pooled


class RowEmbedding(nn.Module):
    """An embedding that keeps equal rows once, and which of them each id has."""

    row_of: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        rows, row_of = torch.unique(table, dim=0, return_inverse=True)
        self.rows = nn.Embedding(*rows.shape)
        self.rows.weight = nn.Parameter(rows, requires_grad=False)
        smallest = torch.int16 if len(rows) <= torch.iinfo(torch.int16).max else torch.int32
        # A column, looked up as a table is: of a vector that is indexed, the exporter makes a
        # constant of another name.
        self.register_buffer("row_of", row_of.to(smallest)[:, None])

    def forward(self, token_ids: Tensor) -> Tensor:
        """Map ids (N, L) to their rows (N, L, Ct)."""
        row: Tensor = nn.functional.embedding(token_ids, self.row_of).squeeze(-1)
        out: Tensor = self.rows(row.long())
        return out


def embedding_of(table: Tensor) -> nn.Module:
    """Return what embeds tokens in the graph: by rows where most ids have the same as others.

    A CLIP that was trained on few words has one row for all ids that it never read.
    """
    shared = RowEmbedding(table)
    few = len(shared.rows.weight) < _WORTH_SHARING * len(table)
    if few:
        return shared
    embedding = nn.Embedding(len(table), table.shape[1], device="meta")
    embedding.weight = nn.Parameter(table, requires_grad=False)
    return embedding


class TextEncoder(nn.Module):
    """Token ids to q, q_key and the pooled query."""

    causal: Tensor | None
    padding: Tensor | None

    def __init__(self, model: R2Tuning, clip: ClipTowers) -> None:
        super().__init__()
        config, most = clip.config, clip.config.context_length
        self.read = model.config.read
        self.pad_id, self.pooling = config.text.pad_id, config.text.pooling
        self.positions = weight(most, config.text_width)
        self.blocks = nn.ModuleList(TowerBlock(cast("Block", x)) for x in clip.text.blocks)
        self.tokens = QueryTokens(model)
        self.projection: Projection | None = None
        if config.embed_width is not None:
            self.projection = Projection(clip.text_projection)
        causal = torch.full((most, most), -math.inf).triu(1) if config.text.causal else None
        self.register_buffer("causal", causal, persistent=False)
        padding = None if config.text.causal else torch.full((1, most), self.pad_id)
        self.register_buffer("padding", padding, persistent=False)
        found = folds.text_encoder(
            model_tensors(model), clip_tensors(clip), heads=config.text_heads
        )
        table = torch.tensor(found.pop("embedding.weight"))
        load_weights(self, found)
        self.embedding = embedding_of(table)

    def forward(self, token_ids: Tensor, query_mask: Tensor) -> tuple[Tensor, ...]:
        """Map token ids (N, L) int64 and a mask (N, L), as `QueryTokens`, and give the embedding.

        The embedding (N, E) is the projected state of the last real token, the end of the text, or
        of the last position. A tower that is not causal is run at its full context length, padded
        as it was trained, whatever the ids behind a query's end are.
        """
        length = token_ids.shape[1]
        if self.padding is not None:
            token_ids = torch.where(query_mask > 0.5, token_ids, self.pad_id)
            padding = self.padding.expand(token_ids.shape[0], -1)
            # All of it and then a cut: a part could be empty.
            token_ids = torch.cat([token_ids, padding], dim=1)[:, : self.padding.shape[1]]
        positions = self.positions[:length] if self.padding is None else self.positions
        x = self.embedding(token_ids) + positions
        bias = None if self.causal is None else self.causal[:length, :length]
        hidden, last = run_tower(x, self.blocks, self.read, bias)
        if self.padding is not None:
            hidden = hidden[:, :, :length]
        found: tuple[Tensor, ...] = self.tokens(hidden, query_mask)
        if self.projection is None:
            return found
        if self.pooling == "last":
            return *found, self.projection(last[:, -1])
        # 1 at the last real token and 0 elsewhere: a product in place of an indexed read.
        following = nn.functional.pad(query_mask[:, 1:], (0, 1))
        at_end = (query_mask - following)[:, None]
        if self.padding is not None:
            last = last[:, :length]
        elif self.read[-1] == -1:
            last = hidden[:, -1]
        end = (at_end @ last).squeeze(1)  # (N, Ct)
        return *found, self.projection(end)
