"""The frozen towers of an image-text encoder whose hidden states the R² block reads.

Both towers are pre-LN transformers (Radford et al., "Learning Transferable Visual Models From
Natural Language Supervision", 2021). The modules here are written for export: attention is one
`scaled_dot_product_attention` on (B, heads, tokens, head_dim) between plain `Linear` layers.

The projections to the encoder's embedding are kept where the weights have them; the logit scale is
not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.clip_config import ClipConfig, ClipError, ProjectionKind, TextKind, VisionKind

__all__ = ["Block", "ClipTowers", "TextTower", "VisionTower", "blocks_read", "rotary_table"]

_ROTARY_TEMPERATURE = 10000.0


def blocks_read(layers: int | Sequence[int]) -> tuple[int, ...]:
    """Return which blocks are read, counted from the last, -1: the last K, or those given."""
    return tuple(range(-layers, 0)) if isinstance(layers, int) else tuple(layers)


class ClipTowers(nn.Module):
    """The vision and the text tower: frozen, in eval mode, fp32."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config)
        self.text = TextTower(config)
        if config.embed_width is not None:
            self.vision_projection = FrameEmbedding(config)
            self.text_projection = Projection(
                config.text_width, config.embed_width, config.text.projection, config.text.eps
            )
        self.requires_grad_(False)
        self.eval()

    def encode_video(self, frames: Tensor, layers: int | Sequence[int]) -> Tensor:
        """Return what blocks of the vision tower put out, without the norm behind the last.

        Args:
            frames: (B, S, S, 3) RGB; uint8 is normalised here, float is taken as normalised.
            layers: the number K of last blocks whose outputs are returned, or which blocks in which
                order, counted from the last, -1.

        Returns:
            (B, K, P, Cv) fp32 in that order; of a number, the last entry is the last block's. The
            first token is the class token, or the mean of the block's patches; see `VisionKind`.
        """
        read = _checked_layers(layers, self.config.vision_layers, "vision")
        return self.vision(frames, read)  # type: ignore[no-any-return]

    def encode_text(
        self, token_ids: Tensor, layers: int | Sequence[int], lengths: Tensor | None = None
    ) -> Tensor:
        """Return what blocks of the text tower put out, without the norm behind the last.

        Args:
            token_ids: (N, L) int64, 1 <= L <= context_length, from the start token on.
            layers: see `encode_video`.
            lengths: (N,) int64, real tokens of each text; None where all are. In a causal tower,
                what stands behind them changes nothing before. In others it is replaced by
                padding up to the context length, as the encoder was trained.

        Returns:
            (N, K, L, Ct) fp32.
        """
        read = _checked_layers(layers, self.config.text_layers, "text")
        return self.text(token_ids, read, lengths)  # type: ignore[no-any-return]

    def embed_frames(self, hidden: Tensor) -> Tensor:
        """Return the encoder's embedding of frames (B, E), not normalised.

        Args:
            hidden: what `encode_video` returns, its last entry being the last block's.

        Raises:
            ClipError: the weights have no projection.
        """
        self._check_projected()
        return self.vision_projection(hidden[:, -1])  # type: ignore[no-any-return]

    def embed_texts(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return the encoder's embedding of texts (N, E), not normalised.

        Args:
            hidden: (N, K, L, Ct), what `encode_text` returns, its last entry being the last
                block's. L is the context length where the embedding is of the last position.
            lengths: (N,) int64, tokens of each text.

        Raises:
            ClipError: the weights have no projection, or L is too short.
        """
        self._check_projected()
        last = hidden[:, -1]
        if self.config.text.pooling == "last":
            if last.shape[1] != self.config.context_length:
                raise ClipError(
                    f"{last.shape[1]} positions of a text; the embedding of {self.config.name} is "
                    f"of the last one of {self.config.context_length}"
                )
            return self.text_projection(last[:, -1])  # type: ignore[no-any-return]
        ends = last[torch.arange(len(last)), lengths - 1]
        return self.text_projection(ends)  # type: ignore[no-any-return]

    def _check_projected(self) -> None:
        if self.config.embed_width is None:
            raise ClipError(f"the weights of {self.config.name} have no projection to an embedding")


class Projection(nn.Module):
    """LN(x)·W + b, from a tower's last state to the embedding that images and texts share."""

    def __init__(self, width: int, embed_width: int, kind: ProjectionKind, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)
        if kind == "none" and width != embed_width:
            raise ClipError(f"an embedding of {embed_width} without a projection from {width}")
        self.weight = None if kind == "none" else nn.Parameter(torch.zeros(width, embed_width))
        self.bias = nn.Parameter(torch.zeros(embed_width)) if kind == "affine" else None

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.norm(x))

    def project(self, x: Tensor) -> Tensor:
        """Return x·W + b of a normalised or pooled state."""
        if self.weight is not None:
            x = x @ self.weight
        return x if self.bias is None else x + self.bias


class FrameEmbedding(Projection):
    """The embedding of a frame: of its first token, or of all tokens pooled by attention."""

    def __init__(self, config: ClipConfig) -> None:
        assert config.embed_width is not None
        kind = config.vision
        super().__init__(config.vision_width, config.embed_width, kind.projection, kind.eps)
        self.pool: AttentionPool | None = None
        if kind.pool_heads:
            self.pool = AttentionPool(
                config.vision_width, kind.pool_heads, kind.pool_mlp_width, kind
            )
        # A mean that stands first is not one of the tokens that are pooled.
        self.first = 0 if kind.frame_token == "class" else 1

    def forward(self, tokens: Tensor) -> Tensor:
        """Map the last block's tokens (B, P, Cv) to (B, E)."""
        if self.pool is None:
            return self.project(self.norm(tokens[:, 0]))
        return self.project(self.pool(self.norm(tokens[:, self.first :])))


class AttentionPool(nn.Module):
    """One learned query attends to all tokens: x = attention, then x + MLP(LN(x))."""

    def __init__(self, width: int, heads: int, mlp_width: int, kind: VisionKind) -> None:
        super().__init__()
        self.heads = heads
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=kind.eps)
        self.fc, self.proj = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.act = _activation(quick=False, tanh=kind.tanh_gelu)

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, N, C) to (B, C)."""
        query = self.q(self.latent.expand(len(x), -1, -1))
        parts = (query, *self.kv(x).chunk(2, dim=-1))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        pooled: Tensor = self.out(attended)[:, 0]
        return pooled + self.proj(self.act(self.fc(self.norm(pooled))))  # type: ignore[no-any-return]


class VisionTower(nn.Module):
    """A vision transformer up to its last block."""

    mean: Tensor
    std: Tensor
    rotary: Tensor | None

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width, patch, kind = config.vision_width, config.patch_size, config.vision
        grid = config.image_size // patch
        self.image_size = config.image_size
        self.frame_token = kind.frame_token
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width)) if kind.class_token else None
        tokens = grid**2 + kind.class_token
        self.positional_embedding = nn.Parameter(torch.zeros(tokens, width))
        self.ln_pre = nn.LayerNorm(width, eps=kind.eps) if kind.pre_norm else None
        self.blocks = _blocks(
            config.vision_layers,
            kind,
            width=width,
            heads=config.vision_heads,
            mlp_width=config.vision_mlp_width,
            quick_gelu=config.quick_gelu,
            causal=False,
        )
        self.register_buffer("mean", None, persistent=False)
        self.register_buffer("std", None, persistent=False)
        self.register_buffer("rotary", None, persistent=False)
        self.set_constants(config)

    def set_constants(self, config: ClipConfig) -> None:
        """Set what follows from the configuration, on the device that is in use."""
        # In units of a byte, so that uint8 frames need no division first.
        self.mean, self.std = torch.tensor(config.mean) * 255, torch.tensor(config.std) * 255
        if config.vision.rotary is not None:
            self.rotary = rotary_table(
                config.image_size // config.patch_size,
                config.vision_width // config.vision_heads,
                config.vision.rotary,
                class_token=config.vision.class_token,
            )

    def forward(self, frames: Tensor, read: Sequence[int]) -> Tensor:
        """Run frames (B, S, S, 3); see `ClipTowers.encode_video`."""
        size = self.image_size
        if frames.ndim != 4 or tuple(frames.shape[1:]) != (size, size, 3):
            raise ClipError(f"frames have shape {tuple(frames.shape)}, not (B, {size}, {size}, 3)")
        if frames.dtype == torch.uint8:
            frames = (frames.to(self.mean.dtype) - self.mean) / self.std
        x = self.conv1(frames.permute(0, 3, 1, 2))  # (B, Cv, S/patch, S/patch)
        x = x.flatten(2).transpose(1, 2)  # (B, patches, Cv)
        if self.class_embedding is not None:
            x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], dim=1)
        x = x + self.positional_embedding
        if self.ln_pre is not None:
            x = self.ln_pre(x)
        hidden = _outputs(x, self.blocks, read, self.rotary)
        if self.frame_token == "class":
            return hidden
        patches = hidden if self.class_embedding is None else hidden[:, :, 1:]
        return torch.cat([patches.mean(dim=2, keepdim=True), patches], dim=2)


class TextTower(nn.Module):
    """A text transformer up to its last block."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width, kind = config.text_width, config.text
        self.causal, self.pad_id = kind.causal, kind.pad_id
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.zeros(config.context_length, width))
        self.blocks = _blocks(
            config.text_layers,
            kind,
            width=width,
            heads=config.text_heads,
            mlp_width=config.text_mlp_width,
            quick_gelu=config.quick_gelu,
            causal=kind.causal,
        )

    def forward(
        self, token_ids: Tensor, read: Sequence[int], lengths: Tensor | None = None
    ) -> Tensor:
        """Run token ids (N, L); see `ClipTowers.encode_text`."""
        most, length = self.positional_embedding.shape[0], token_ids.shape[1]
        if length > most:
            raise ClipError(f"a query of {length} tokens; the tower takes at most {most}")
        if not self.causal:
            token_ids = F.pad(token_ids, (0, most - length), value=self.pad_id)
            real = length if lengths is None else lengths[:, None]
            places = torch.arange(most, device=token_ids.device)
            token_ids = torch.where(places < real, token_ids, self.pad_id)
        positions = self.positional_embedding[: token_ids.shape[1]]  # (L, Ct)
        hidden = _outputs(self.token_embedding(token_ids) + positions, self.blocks, read)
        return hidden[:, :, :length]


class Block(nn.Module):
    """A pre-LN transformer block: x + attention(LN(x)), then x + MLP(LN(x))."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        mlp_width: int,
        quick_gelu: bool,
        causal: bool,
        tanh_gelu: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.ln_1 = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width, eps=eps)
        self.fc = nn.Linear(width, mlp_width)
        self.act = _activation(quick=quick_gelu, tanh=tanh_gelu)
        self.proj = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor, rotary: Tensor | None = None) -> Tensor:
        """Map tokens (B, N, C), whose positions `rotary_table` has, to (B, N, C)."""
        x = x + self.out(self._attend(self.ln_1(x), rotary))
        return x + self.proj(self.act(self.fc(self.ln_2(x))))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor, rotary: Tensor | None) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, tokens, head_dim)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        if rotary is not None:
            q, k = _rotated(q, rotary), _rotated(k, rotary)
        return (
            F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
            .transpose(1, 2)
            .flatten(2)
        )


class QuickGELU(nn.Module):
    """x·σ(1.702x), OpenAI's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def rotary_table(grid: int, head_width: int, offset: float, *, class_token: bool) -> Tensor:
    """Return cos and sin (2, tokens, head_width / 2) of each token's rotation of pairs of channels.

    The first half of the pairs turns by x / 10000^(n / (head_width / 4)), the second by y; a class
    token is not turned.
    """
    bands = head_width // 4
    rates = _ROTARY_TEMPERATURE ** -(torch.arange(bands, dtype=torch.float32) / bands)
    places = torch.arange(grid, dtype=torch.float32) + offset
    y, x = torch.meshgrid(places, places, indexing="ij")
    angles = torch.cat([x.reshape(-1, 1) * rates, y.reshape(-1, 1) * rates], dim=-1)
    if class_token:
        angles = F.pad(angles, (0, 0, 1, 0))
    return torch.stack([angles.cos(), angles.sin()])


def _rotated(x: Tensor, table: Tensor) -> Tensor:
    """Turn the pairs of channels (0, 1), (2, 3), ... of x (B, heads, tokens, head_width)."""
    (cos, sin), even, odd = table, x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


def _activation(*, quick: bool, tanh: bool) -> nn.Module:
    if quick:
        return QuickGELU()
    return nn.GELU(approximate="tanh" if tanh else "none")


def _blocks(
    count: int,
    kind: VisionKind | TextKind,
    *,
    width: int,
    heads: int,
    mlp_width: int,
    quick_gelu: bool,
    causal: bool,
) -> nn.ModuleList:
    return nn.ModuleList(
        Block(
            width=width,
            heads=heads,
            mlp_width=mlp_width,
            quick_gelu=quick_gelu,
            causal=causal,
            tanh_gelu=kind.tanh_gelu,
            eps=kind.eps,
        )
        for _ in range(count)
    )


def _outputs(
    x: Tensor, blocks: nn.ModuleList, read: Sequence[int], rotary: Tensor | None = None
) -> Tensor:
    """Run all blocks on x (B, tokens, C); return the outputs of those read, (B, K, tokens, C)."""
    wanted = {len(blocks) + place for place in read}
    outputs: dict[int, Tensor] = {}
    for index, block in enumerate(blocks):
        x = block(x, rotary)
        if index in wanted:
            outputs[index] = x
    return torch.stack([outputs[len(blocks) + place] for place in read], dim=1)


def _checked_layers(layers: int | Sequence[int], depth: int, tower: str) -> tuple[int, ...]:
    read = blocks_read(layers)
    if not read or not all(-depth <= place <= -1 for place in read):
        raise ClipError(f"layers {layers} asked of a {tower} tower that has {depth}")
    return read
