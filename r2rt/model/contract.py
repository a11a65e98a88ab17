"""The four graphs of a bundle: names, inputs, outputs, shapes and types, defined once.

Every exporter writes graphs that fit these definitions and every backend checks the graphs it opens
against them, so that an engine and a model can only meet if they mean the same thing.

Symbols: B frames in a batch, T clips, K CLIP layers read, P tokens a frame (CLS and patches),
D width of the R² block, C numbers a stored token (D + 2 with temporal endpoint features, else D),
E width of CLIP's embedding, N queries, L query tokens, M points of the temporal pyramid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

__all__ = [
    "GROUNDER",
    "PATCH_BIAS",
    "TEXT_ENCODER",
    "VIDEO_ENCODER",
    "VIDEO_FINALIZER",
    "GraphSpec",
    "ModelDims",
    "TensorSpec",
    "graph_specs",
    "level_lengths",
    "parse_clip_rate",
    "query_inputs",
]

T = TypeVar("T")

# Fraction alone would also take "1e999999999", and compute it.
_CLIP_RATE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}|/[0-9]{1,9})?")
# Beyond any camera and any recording; keeps products with timestamps small.
_MAX_CLIP_RATE, _MIN_CLIP_RATE = Fraction(1000), Fraction(1, 86_400)

VIDEO_ENCODER = "video_encoder"
VIDEO_FINALIZER = "video_finalizer"
TEXT_ENCODER = "text_encoder"
GROUNDER = "grounder"
# The grounder's input that says how many patches a row stands for.
PATCH_BIAS = "patch_bias"


@dataclass(frozen=True, kw_only=True)
class ModelDims:
    """The sizes that the graphs' shapes depend on.

    Attributes:
        image_size: side S of the square frame that the vision tower takes, in pixels.
        patches: tokens a frame P, the CLS token, or the mean that replaces it, included.
        layers: CLIP layers K that the R² block reads.
        width: width D of the R² block.
        context_length: the most query tokens that the text tower takes, start and end included.
        strides: strides of the temporal pyramid's levels, in clips, ascending from 1.
        use_tef: whether temporal endpoint features are part of the model.
        has_offsets: whether a coordinate head predicts moments (saliency alone otherwise).
        embedding_width: numbers E of CLIP's embedding of a frame or sentence; None where the
            encoders do not give it.
        read_layers: the CLIP layers that are read, counted from the last, -1, in order; None for
            the last K.
        patch_bias: whether the grounder takes any number of rows a frame and a bias for each, as
            merged patches have them (see `r2rt.grounding.compact`).
    """

    image_size: int
    patches: int
    layers: int
    width: int
    context_length: int
    strides: tuple[int, ...]
    use_tef: bool
    has_offsets: bool
    embedding_width: int | None = None
    patch_bias: bool = False
    read_layers: tuple[int, ...] | None = None

    @property
    def token_width(self) -> int:
        """Numbers C that are stored a token: p, mean and M2 with TEF; v itself without."""
        return self.width + 2 if self.use_tef else self.width


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output: its name, numpy dtype, and shape (a str is a dynamic dimension)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """One graph: its name (also its file's stem), inputs and outputs in order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def graph_specs(dims: ModelDims) -> dict[str, GraphSpec]:
    """Return the definition of every graph of a model with these sizes, by name.

    `video_finalizer` is absent where the model has no temporal endpoint features, since then the
    encoder's tokens are final. `offsets` is absent from `grounder` where the model has no
    coordinate head, `embedding` from the encoders where `embedding_width` is None.
    """
    s, p, k, d = dims.image_size, dims.patches, dims.layers, dims.width
    c, e = dims.token_width, dims.embedding_width
    # Rows a frame: P patches, or fewer where similar ones were merged.
    rows: int | str = "P" if dims.patch_bias else p

    def f32(name: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", shape=shape)

    specs = [
        # Normalisation by mean and std is inside the graph.
        GraphSpec(
            name=VIDEO_ENCODER,
            inputs=(TensorSpec(name="frames", dtype="uint8", shape=("B", s, s, 3)),),
            # `embedding` is CLIP's own, not normalised: what its image-text cosine compares.
            outputs=(
                f32("tokens", "B", k, p, c),
                *(() if e is None else (f32("embedding", "B", e),)),
            ),
        ),
        # `endpoints` holds s = t / T and e = (t + 1) / T of each clip. They are an input so that a
        # long video is finalised in chunks of clips, written side by side, with bounded memory.
        GraphSpec(
            name=VIDEO_FINALIZER,
            inputs=(f32("tokens", "T", k, rows, c), f32("endpoints", "T", 2)),
            outputs=(f32("v", "T", k, rows, d),),
        ),
        # Queries of a batch are padded with any id behind their end token. `query_mask` (1 real, 0
        # padded) says where: a causal tower is not changed by what follows, others pad by the mask.
        GraphSpec(
            name=TEXT_ENCODER,
            inputs=(
                TensorSpec(name="token_ids", dtype="int64", shape=("N", "L")),
                f32("query_mask", "N", "L"),
            ),
            outputs=(
                f32("q", "N", k, "L", d),
                f32("q_key", "N", k, "L", d),
                f32("pooled", "N", d),
                *(() if e is None else (f32("embedding", "N", e),)),
            ),
        ),
        GraphSpec(
            name=GROUNDER,
            inputs=(
                f32("v", "T", k, rows, d),
                f32("q", "N", k, "L", d),
                f32("q_key", "N", k, "L", d),
                f32("pooled", "N", d),
                f32("query_mask", "N", "L"),
                # ln(n) of a row that stands for n patches: 0 for patches that are not merged.
                *((f32(PATCH_BIAS, "T", k, rows),) if dims.patch_bias else ()),
            ),
            outputs=(
                f32("class_logits", "N", "M"),
                *((f32("offsets", "N", "M", 2),) if dims.has_offsets else ()),
                f32("saliency", "N", "T"),
            ),
        ),
    ]
    return {g.name: g for g in specs if dims.use_tef or g.name != VIDEO_FINALIZER}


def level_lengths(num_clips: int, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many points each pyramid level has for a video of `num_clips` clips.

    A level whose stride exceeds the number of clips has none. The points of all levels follow one
    another along M, in the order of `strides`; point j of a level stands at j · stride clips.
    """
    return tuple(num_clips // stride for stride in strides)


def query_inputs(encoded: Mapping[str, T]) -> dict[str, T]:
    """Return what `grounder` takes of `text_encoder`'s outputs: all but the embedding."""
    return {name: value for name, value in encoded.items() if name != "embedding"}


def parse_clip_rate(text: str) -> Fraction:
    """Return clips a second from text such as "1/2"; `ValueError` if it is no possible rate."""
    rate = Fraction(0)
    if _CLIP_RATE.fullmatch(text):
        try:
            rate = Fraction(text)
        except ZeroDivisionError:
            rate = Fraction(0)
    if not _MIN_CLIP_RATE <= rate <= _MAX_CLIP_RATE:
        raise ValueError(
            f"fps must be a fraction such as 1/2 from 1/86400 to 1000, got {text[:40]!r}"
        )
    return rate
