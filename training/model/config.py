"""The sizes and choices that define one R² model, and how a state dict reveals them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Padding", "R2Config"]


class Padding(enum.Enum):
    """What a batch of videos and queries of unequal lengths means.

    Without padding the two are the same; they differ in training alone.
    """

    EXACT = "exact"
    """A sample's outputs are those that it has alone: padding reaches nothing."""

    SHARED = "shared"
    """How the published weights were trained: the videos of a batch share the time axis of the
    longest one (temporal endpoints, positions, pyramid), and the maximum over query tokens sees the
    padded ones, which enter as zeros."""


@dataclass(frozen=True, kw_only=True)
class R2Config:
    """What an `R2Tuning` is built from.

    Attributes:
        width: width D of the R² block.
        layers: CLIP layers K that are read.
        vision_width: width Cv of the vision tower's hidden states.
        text_width: width Ct of the text tower's hidden states.
        heads: attention heads of the temporal layer.
        strides: strides of the pyramid's levels in clips, the powers of two from 1 up.
        use_tef: whether each clip's start and end (as shares of the video) join its tokens.
        has_offsets: whether a coordinate head predicts moments; saliency alone otherwise.
        merge_cls_sal: whether saliency is multiplied by the cosine of clip and query.
        dropout: dropout before each Linear of the two maps, in training.
        drop_path: probability of skipping a branch of the temporal layer, in training.
        padding: what padding in a batch means.
        read_layers: the K layers that are read, counted from the last, -1, in CLIP's order or any
            other, repeated or not; None for the last K. The block begins with the last one listed.

    Raises:
        ValueError: the sizes contradict one another.
    """

    width: int = 256
    layers: int = 4
    vision_width: int = 768
    text_width: int = 512
    heads: int = 8
    strides: tuple[int, ...] = (1, 2, 4, 8)
    use_tef: bool = True
    has_offsets: bool = True
    merge_cls_sal: bool = True
    dropout: float = 0.5
    drop_path: float = 0.1
    padding: Padding = Padding.EXACT
    read_layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        sizes = (self.width, self.layers, self.vision_width, self.text_width, self.heads)
        if min(sizes) < 1:
            raise ValueError(f"sizes must be positive, got {self}")
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width {self.width} must be even and divide by {self.heads} heads")
        if (
            self.strides != tuple(2**level for level in range(len(self.strides)))
            or not self.strides
        ):
            raise ValueError(f"strides must be 1, 2, 4, ... without a gap, got {self.strides}")
        if len(self.read) != self.layers or max(self.read) > -1:
            raise ValueError(
                f"layers that are read must be {self.layers} negative numbers, -1 for the last, "
                f"got {self.read}"
            )

    @property
    def read(self) -> tuple[int, ...]:
        """The layers that are read, counted from the last, -1."""
        return tuple(range(-self.layers, 0)) if self.read_layers is None else self.read_layers

    @classmethod
    def from_state_dict(
        cls,
        state_dict: Mapping[str, Tensor],
        *,
        heads: int = 8,
        use_tef: bool | None = None,
        merge_cls_sal: bool | None = None,
        dropout: float = 0.5,
        drop_path: float = 0.1,
        padding: Padding = Padding.EXACT,
        read_layers: tuple[int, ...] | None = None,
    ) -> R2Config:
        """Read every size from the shapes in a checkpoint.

        Four choices leave no trace in the shapes. The number of `heads` is 8 in every published
        model. `use_tef` and `merge_cls_sal` go with moment retrieval, so where they are None they
        follow the coordinate head; YouTube's and TVSum's models have none of the three.

        Args:
            state_dict: a checkpoint's tensors by name.
            heads: attention heads of the temporal layer.
            use_tef: whether the last two inputs of `video_map` are temporal endpoints.
            merge_cls_sal: whether saliency is multiplied by the cosine of clip and query.
            dropout: kept in the configuration, without influence on inference.
            drop_path: kept in the configuration, without influence on inference.
            padding: what padding in a batch means.
            read_layers: the layers that are read; weights do not show them.

        Raises:
            KeyError: a tensor that a size is read from is missing.
            ValueError: a tensor has the wrong number of dimensions, or the sizes contradict.
        """

        def shape(key: str, dims: int) -> tuple[int, ...]:
            found = tuple(state_dict[key].shape)
            if len(found) != dims:
                raise ValueError(f"{key} has shape {found}, expected {dims} dimensions")
            return found

        has_offsets = any(key.startswith("coord_head.") for key in state_dict)
        tef = has_offsets if use_tef is None else use_tef
        width, video_inputs = shape("adapter.video_map.2.weight", 2)
        return cls(
            width=width,
            layers=shape("adapter.scale", 1)[0],
            vision_width=video_inputs - (2 if tef else 0),
            text_width=shape("adapter.query_map.2.weight", 2)[1],
            heads=heads,
            strides=tuple(2**level for level in range(shape("coef", 1)[0])),
            use_tef=tef,
            has_offsets=has_offsets,
            merge_cls_sal=has_offsets if merge_cls_sal is None else merge_cls_sal,
            dropout=dropout,
            drop_path=drop_path,
            padding=padding,
            read_layers=read_layers,
        )
