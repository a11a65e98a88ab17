"""What defines an image-text encoder: its sizes, and how its two towers differ from OpenAI's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from r2rt.model.manifest import TextCleaning
from training.checkpoint import CheckpointError

__all__ = [
    "DEFAULT_ARCH",
    "OPENAI_MEAN",
    "OPENAI_STD",
    "ClipConfig",
    "ClipError",
    "ProjectionKind",
    "TextKind",
    "VisionKind",
]

DEFAULT_ARCH = "ViT-B-32-quickgelu"
# Mean and standard deviation of RGB in 0..1 that OpenAI's CLIP was trained with.
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


class ClipError(CheckpointError):
    """CLIP weights that cannot be had, read, or fitted to their architecture."""


# How a tower's pooled state becomes the embedding: as it is, W·x, or W·x + b.
ProjectionKind = Literal["none", "matrix", "affine"]


@dataclass(frozen=True, kw_only=True)
class VisionKind:
    """How a vision tower is built; the defaults are OpenAI's.

    Attributes:
        class_token: whether a learned token stands before the patches.
        pre_norm: whether a LayerNorm stands before the first block.
        rotary: first coordinate of the patches in rotary positions (x, then y, in patches); None
            where attention has no rotary positions.
        tanh_gelu: whether the activation is GELU's approximation by tanh.
        eps: ε of every LayerNorm.
        frame_token: first of the tokens that the R² block reads, `class` or `mean`, the mean of the
            block's patches, which replaces the class token where the encoder's own embedding does
            not come from it.
        pool_heads: heads of the attention that pools the last block's tokens to the embedding; 0
            where the embedding is of the first token.
        pool_mlp_width: hidden width of the MLP behind that attention.
        projection: how the pooled state becomes the embedding.
    """

    class_token: bool = True
    pre_norm: bool = True
    rotary: float | None = None
    tanh_gelu: bool = False
    eps: float = 1e-5
    frame_token: Literal["class", "mean"] = "class"
    pool_heads: int = 0
    pool_mlp_width: int = 0
    projection: ProjectionKind = "matrix"


@dataclass(frozen=True, kw_only=True)
class TextKind:
    """How a text tower and its tokenizer are built; the defaults are OpenAI's.

    Attributes:
        causal: whether a token attends to those before it alone. Otherwise all tokens attend to
            all, padding included, so that a query is always run at its full context length.
        pad_id: id of the padding.
        tanh_gelu: whether the activation is GELU's approximation by tanh.
        eps: ε of every LayerNorm.
        pooling: the embedding is of the `end` of the text, its last real token, or of the `last`
            position, padding or not.
        projection: how the pooled state becomes the embedding.
        cleaning: how a text is cleaned before it is split into tokens; see
            `r2rt.grounding.tokenizer`.
        tokenizer: repository of the tokenizer's file on the hub; None for CLIP's own.
        unended: whether the tokenizer's end token is replaced by padding.
    """

    causal: bool = True
    pad_id: int = 0
    tanh_gelu: bool = False
    eps: float = 1e-5
    pooling: Literal["end", "last"] = "end"
    projection: ProjectionKind = "matrix"
    cleaning: TextCleaning = "clip"
    tokenizer: str | None = None
    unended: bool = False


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Sizes and provenance of a CLIP.

    Attributes:
        name: open_clip's name of the architecture, or a description where it has none.
        image_size: side of the square input frame, in pixels.
        patch_size: side of a patch, in pixels.
        vision_width: numbers Cv of a vision token.
        vision_layers: blocks of the vision tower.
        vision_heads: attention heads of a vision block.
        vision_mlp_width: hidden width of a vision block's MLP.
        text_width: numbers Ct of a text token.
        text_layers: blocks of the text tower.
        text_heads: attention heads of a text block.
        text_mlp_width: hidden width of a text block's MLP.
        context_length: the most tokens of a query, start and end included.
        vocab_size: number of token ids.
        quick_gelu: whether the activation is x·σ(1.702x), else GELU.
        embed_width: numbers E of the embedding that both towers project to; None where the weights
            have no projections.
        mean: mean of RGB in 0..1 that a frame is normalised with.
        std: standard deviation of RGB in 0..1 that a frame is normalised with.
        vision: how the vision tower is built.
        text: how the text tower and its tokenizer are built.
        weights_source: where the weights came from, for people.
        weights_sha256: sha256 of the weights' file; None where they came from no file.
    """

    name: str
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    vision_mlp_width: int
    text_width: int
    text_layers: int
    text_heads: int
    text_mlp_width: int
    context_length: int = 77
    vocab_size: int = 49408
    quick_gelu: bool = True
    embed_width: int | None = None
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    vision: VisionKind = VisionKind()
    text: TextKind = TextKind()
    weights_source: str = ""
    weights_sha256: str | None = None

    @property
    def patches(self) -> int:
        """Tokens a frame P: the class token, or what replaces it, and the grid of patches."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def query_length(self) -> int:
        """The most tokens of a query that are kept: the context length, less a removed end."""
        return self.context_length - self.text.unended
