"""One query with its video, and a padded batch of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.losses import LossTargets

__all__ = ["Batch", "Inputs", "Sample", "collate", "collate_inputs"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A video's and a query's hidden states, and what the query should be answered with.

    T clips, L query tokens, K CLIP layers in CLIP's order, P tokens a frame, G moments.

    Attributes:
        video: vision tower's hidden states, (T, K, P, Cv), fp16 or fp32.
        query: text tower's hidden states, (L, K, Ct), fp16 or fp32, real tokens alone.
        fps: clips a second.
        duration_s: length of the video in seconds.
        moments_s: start and end of each moment in seconds, (G, 2) float32; None where the data set
            scores clips alone, or has no labels.
        saliency: how well each clip fits the query, (T,) float32, 0..1; zeros without labels.
        relevant_clips: indices of the clips that stand for the query in the losses, of which one is
            drawn a batch, (R,) int64; empty without labels.
        qid: id of the query.
        vid: id of the video.
        text: the query itself.

    Raises:
        ValueError: shapes, types or values contradict one another.
    """

    video: Tensor
    query: Tensor
    fps: float
    duration_s: float
    moments_s: Tensor | None
    saliency: Tensor
    relevant_clips: Tensor
    qid: int | str
    vid: str
    text: str

    def __post_init__(self) -> None:
        clips = len(self.video)
        faults = [
            message
            for wrong, message in (
                (self.video.ndim != 4 or not clips, _shape("video", self.video, "(T, K, P, Cv)")),
                (
                    self.query.ndim != 3 or not len(self.query),
                    _shape("query", self.query, "(L, K, Ct)"),
                ),
                (
                    self.video.ndim == 4
                    and self.query.ndim == 3
                    and self.video.shape[1] != self.query.shape[1],
                    f"video {tuple(self.video.shape)} and query {tuple(self.query.shape)} differ "
                    "in CLIP layers (dimension 1)",
                ),
                (self.saliency.shape != (clips,), _shape("saliency", self.saliency, f"({clips},)")),
                (
                    self.moments_s is not None
                    and (self.moments_s.ndim != 2 or self.moments_s.shape[1] != 2),
                    "moments_s must be (G, 2)",
                ),
                (
                    self.relevant_clips.ndim != 1
                    or bool(((self.relevant_clips < 0) | (self.relevant_clips >= clips)).any()),
                    f"relevant_clips {self.relevant_clips.tolist()} outside 0..{clips - 1}",
                ),
                (not (math.isfinite(self.fps) and self.fps > 0), f"fps is {self.fps}"),
            )
            if wrong
        ]
        if faults:
            raise ValueError(f"sample {self.qid!r} of video {self.vid!r}: {'; '.join(faults)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """Padded inputs of several samples, as the model takes them.

    Attributes:
        video: (B, T, K, P, Cv), 0 where padded; the samples' own dtype.
        query: (B, L, K, Ct), 0 where padded.
        video_mask: True for real clips, (B, T).
        query_mask: True for real query tokens, (B, L).
        qids: the queries' ids.
        vids: the videos' ids.
    """

    video: Tensor
    query: Tensor
    video_mask: Tensor
    query_mask: Tensor
    qids: tuple[int | str, ...]
    vids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.qids)

    def to(
        self,
        device: torch.device | str | None = None,
        *,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Self:
        """Move all tensors to `device`; `dtype` is given to video and query alone."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, non_blocking=non_blocking)

        moved = self._each(move)
        if dtype is None:
            return moved
        return replace(moved, video=moved.video.to(dtype), query=moved.query.to(dtype))

    def pin_memory(self) -> Self:
        """Put all tensors into page-locked memory; `DataLoader(pin_memory=True)` calls it."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, **_changed(self, change))


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch(Inputs):
    """Padded samples with what they should be answered with.

    Attributes:
        targets: for `training.losses.compute_losses`.
    """

    targets: LossTargets

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        targets = replace(self.targets, **_changed(self.targets, change))
        return replace(self, **_changed(self, change), targets=targets)


def collate(samples: Sequence[Sample], generator: torch.Generator | None = None) -> Batch:
    """Pad samples to a batch and draw each one's positive clip.

    Args:
        samples: one or more; all with moments or all without.
        generator: what draws the positive clips; torch's default one if None.

    Raises:
        ValueError: a sample has no clip to draw, sizes differ, or only some have moments.
    """
    inputs = collate_inputs(samples)
    for sample in samples:
        if not len(sample.relevant_clips):
            raise ValueError(
                f"sample {sample.qid!r} of video {sample.vid!r} has no relevant clip to learn from"
            )
    drawn = [
        sample.relevant_clips[
            int(torch.randint(len(sample.relevant_clips), (), generator=generator))
        ]
        for sample in samples
    ]
    return Batch(
        **{field.name: getattr(inputs, field.name) for field in fields(inputs)},
        targets=LossTargets(
            saliency=pad_sequence([sample.saliency for sample in samples], batch_first=True),
            pos_clip=torch.stack(drawn),
            boundary_s=_pad_moments(samples),
            fps=torch.tensor([sample.fps for sample in samples], dtype=torch.float32),
        ),
    )


def collate_inputs(samples: Sequence[Sample]) -> Inputs:
    """Pad what the model reads of samples, labelled or not.

    Raises:
        ValueError: there is no sample, or sizes differ.
    """
    if not samples:
        raise ValueError("no samples to collate")
    for name in ("video", "query"):
        sizes = {tuple(getattr(sample, name).shape[1:]) for sample in samples}
        if len(sizes) > 1:
            raise ValueError(f"{name}s of a batch have different sizes: {sorted(sizes)}")
    videos = _pad([sample.video for sample in samples])
    queries = _pad([sample.query for sample in samples])
    return Inputs(
        video=videos,
        query=queries,
        video_mask=_mask([len(sample.video) for sample in samples]),
        query_mask=_mask([len(sample.query) for sample in samples]),
        qids=tuple(sample.qid for sample in samples),
        vids=tuple(sample.vid for sample in samples),
    )


def _pad(tensors: Sequence[Tensor]) -> Tensor:
    """(B, longest, ...) with zeros; fp32 where fp16 and fp32 meet."""
    dtype = tensors[0].dtype
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return pad_sequence([tensor.to(dtype) for tensor in tensors], batch_first=True)


def _mask(lengths: Sequence[int]) -> Tensor:
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def _pad_moments(samples: Sequence[Sample]) -> Tensor | None:
    """(B, G, 2) float32 padded with inf; None where no sample has moments."""
    moments = [sample.moments_s for sample in samples if sample.moments_s is not None]
    if not moments:
        return None
    if len(moments) < len(samples):
        raise ValueError("some samples of a batch have moments and others do not")
    return pad_sequence([m.to(torch.float32) for m in moments], True, math.inf)


def _changed(record: Inputs | LossTargets, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The record's tensors by name, each changed."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}


def _shape(name: str, tensor: Tensor, expected: str) -> str:
    return f"{name} has shape {tuple(tensor.shape)}, expected {expected}"
