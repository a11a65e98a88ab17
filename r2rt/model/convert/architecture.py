"""What a checkpoint and its CLIP are: the sizes that neither templates nor tensors give."""

from __future__ import annotations

from dataclasses import dataclass

from r2rt.model.contract import ModelDims
from r2rt.model.registry import CLIP_ARCHITECTURE, FAMILIES, HEADS, LAYERS, WIDTH

__all__ = ["Architecture", "published_architecture"]

Triple = tuple[float, float, float]

# Mean and standard deviation of RGB in 0..1 that OpenAI's CLIP was trained with.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of an R² block and of the CLIP behind it.

    Attributes:
        clip: open_clip's name of the CLIP.
        image_size: side of a frame, in pixels.
        patch_size: side of a patch, in pixels.
        vision_width: width Cv of the vision tower.
        vision_blocks: its blocks.
        vision_heads: attention heads of each.
        text_width: width Ct of the text tower.
        text_blocks: its blocks.
        text_heads: attention heads of each.
        context_length: the most tokens of a query.
        layers: CLIP layers K that the R² block reads.
        width: width D of the R² block.
        heads: attention heads of its temporal layer.
        strides: strides of the pyramid's levels.
        use_tef: whether it has temporal endpoint features.
        has_offsets: whether it predicts moments.
        merge_cls_sal: whether saliency is multiplied by the cosine of clip and query.
        embedding_width: width E of CLIP's embedding; None where its weights have no projection.
        mean: of RGB in 0..1, with which frames are normalised.
        std: of RGB in 0..1.
    """

    clip: str
    image_size: int
    patch_size: int
    vision_width: int
    vision_blocks: int
    vision_heads: int
    text_width: int
    text_blocks: int
    text_heads: int
    context_length: int
    layers: int
    width: int
    heads: int
    strides: tuple[int, ...]
    use_tef: bool
    has_offsets: bool
    merge_cls_sal: bool
    embedding_width: int | None = None
    mean: Triple = _MEAN
    std: Triple = _STD

    @property
    def dims(self) -> ModelDims:
        """Sizes of the graphs."""
        return ModelDims(
            image_size=self.image_size,
            patches=(self.image_size // self.patch_size) ** 2 + 1,
            layers=self.layers,
            width=self.width,
            context_length=self.context_length,
            strides=self.strides,
            use_tef=self.use_tef,
            has_offsets=self.has_offsets,
            embedding_width=self.embedding_width,
            patch_bias=True,
        )


def published_architecture(family: str) -> Architecture:
    """Return the architecture of a family of published models, on CLIP ViT-B/32."""
    found = FAMILIES[family]
    return Architecture(
        clip=CLIP_ARCHITECTURE,
        image_size=224,
        patch_size=32,
        vision_width=768,
        vision_blocks=12,
        vision_heads=12,
        text_width=512,
        text_blocks=12,
        text_heads=8,
        context_length=77,
        layers=LAYERS,
        width=WIDTH,
        heads=HEADS,
        strides=found.strides,
        use_tef=found.moments,
        has_offsets=found.moments,
        merge_cls_sal=found.moments,
        embedding_width=512,
    )
