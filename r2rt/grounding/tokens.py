"""Frames in, tokens out: batches frames through `video_encoder` into growing arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2rt.engines.base import PipelinedEngine
from r2rt.grounding.growing_array import GrowingArray, forget
from r2rt.model.contract import VIDEO_ENCODER, ModelDims

if TYPE_CHECKING:
    from r2rt.engines.base import Engine

__all__ = ["TokenBuffer", "difference"]

# Clips written at once of a frame that is repeated: bounds what is in memory of what is on disk.
_CLIPS_AT_ONCE = 256
# Side of the blocks that frames are compared by, in pixels.
_BLOCK = 8


class TokenBuffer:
    """Encodes clips' frames in batches and keeps their tokens in order.

    The tokens of a full batch are written by the engine straight into their place, where the engine
    can while the next batch is prepared. CLIP's embeddings are kept beside them where the model
    gives them.

    Args:
        engine: what runs `video_encoder`.
        dims: sizes of the model.
        expected_clips: how many clips to make room for; more is found when more come.
        skip_similar: how far a frame may be from the last one encoded for that one's tokens to be
            used for it, in levels of 255 as `difference` has it. With 0, frames are encoded unless
            they are equal, which changes nothing.
    """

    def __init__(
        self, engine: Engine, dims: ModelDims, *, expected_clips: int, skip_similar: float = 0.0
    ) -> None:
        self._engine = engine
        self._pipelined = engine if isinstance(engine, PipelinedEngine) else None
        size = dims.image_size
        self._frames = np.empty((engine.frame_batch, size, size, 3), dtype=np.uint8)
        self._counts: list[int] = []
        token_shape = (dims.layers, dims.patches, dims.token_width)
        self._tokens = GrowingArray(token_shape, expected_clips)
        # By the names of the graph's outputs.
        self._arrays = {"tokens": self._tokens}
        if dims.embedding_width is not None:
            self._arrays["embedding"] = GrowingArray((dims.embedding_width,), expected_clips)
        self._encoded = 0
        self._skip_similar = skip_similar
        self._last: NDArray[np.uint8] | None = None  # the last frame that was or will be encoded
        self.clips_similar = 0

    @property
    def num_clips(self) -> int:
        """Clips added so far, encoded or waiting for their batch to fill."""
        return self._encoded + sum(self._counts)

    def add(self, pixels: NDArray[np.uint8], count: int = 1) -> None:
        """Add one frame (S, S, 3) uint8 that stands for `count` consecutive clips."""
        if self._last is not None and np.array_equal(pixels, self._last):
            self._extend(count)
            return
        # Only on request: it takes 2 ms, and every frame comes through here.
        if (
            self._last is not None
            and self._skip_similar
            and difference(pixels, self._last) <= self._skip_similar
        ):
            self.clips_similar += count
            self._extend(count)
            return
        self._last = pixels.copy()
        self._frames[len(self._counts)] = pixels
        self._counts.append(count)
        if len(self._counts) == len(self._frames):
            self.flush()

    def _extend(self, count: int) -> None:
        """Let the last frame stand for `count` more clips."""
        if self._counts:
            self._counts[-1] += count
            return
        self._finish()
        self._reserve(self._encoded + count)
        last = slice(self._encoded - 1, self._encoded)
        self._repeat(
            {name: array.rows[last] for name, array in self._arrays.items()},
            [count],
            self._places(count),
        )
        self._encoded += count

    def drop_oldest(self, clips: int) -> None:
        """Drop the tokens of the oldest clips; their room is used again."""
        self.flush()
        self._finish()
        rest = self._encoded - clips
        for array in self._arrays.values():
            # NumPy minds parts that overlap.
            array.rows[:rest] = array.rows[clips : self._encoded]
        self._encoded = rest

    def flush(self) -> None:
        """Encode the frames that still wait."""
        waiting = len(self._counts)
        if not waiting:
            return
        clips = sum(self._counts)
        self._reserve(self._encoded + clips)
        inputs = {"frames": self._frames[:waiting]}
        places = self._places(clips)
        if clips == waiting and self._pipelined is not None:
            self._pipelined.submit(self._frames[:waiting], places)
        elif clips == waiting:
            self._engine.run(VIDEO_ENCODER, inputs, places)
        else:
            self._repeat(self._engine.run(VIDEO_ENCODER, inputs), self._counts, places)
        self._encoded += clips
        self._counts.clear()
        if self._tokens.memory_mapped:
            forget(self._tokens.rows)

    def _places(self, clips: int) -> dict[str, NDArray[np.float32]]:
        """Return where the outputs of the next clips belong."""
        part = slice(self._encoded, self._encoded + clips)
        return {name: array.rows[part] for name, array in self._arrays.items()}

    def _repeat(
        self,
        outputs: Mapping[str, NDArray[np.float32]],
        counts: list[int],
        places: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Write every frame's outputs as often as it has clips, which can be thousands of times."""
        for name, place in places.items():
            end = 0
            for row, count in zip(outputs[name], counts, strict=True):
                start, end = end, end + count
                for at in range(start, end, _CLIPS_AT_ONCE):
                    place[at : min(at + _CLIPS_AT_ONCE, end)] = row
                    if self._arrays[name].memory_mapped and count > _CLIPS_AT_ONCE:
                        forget(place)

    def tokens(self) -> NDArray[np.float32]:
        """Return the tokens (T, K, P, C) float32 of all clips: a view that `add` may void."""
        self.flush()
        self._finish()
        return self._tokens.rows[: self._encoded]

    def embeddings(self) -> NDArray[np.float32] | None:
        """Return CLIP's embeddings (T, E) of all clips, a view; None if the model gives none."""
        self.flush()
        self._finish()
        found = self._arrays.get("embedding")
        return None if found is None else found.rows[: self._encoded]

    def _reserve(self, clips: int) -> None:
        if clips > len(self._tokens.rows):
            self._finish()  # before what is on its way lands in the array that is given up
        for array in self._arrays.values():
            array.reserve(clips, used=self._encoded)

    def _finish(self) -> None:
        if self._pipelined is not None:
            self._pipelined.finish()


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return how far two frames are apart: the greatest mean absolute difference of a block.

    Blocks are 8 x 8 pixels (a frame's last rows and columns may make smaller ones), over the three
    channels. A small thing that moves changes its own blocks much, and the whole frame little.

    Args:
        a: frame (S, S, 3) uint8.
        b: frame of the same shape.

    Returns:
        Levels from 0 (equal) to 255.
    """
    change = np.abs(a.astype(np.int16) - b).sum(axis=2, dtype=np.float64)
    starts = [np.arange(0, size, _BLOCK) for size in change.shape]
    sums = np.add.reduceat(np.add.reduceat(change, starts[0], axis=0), starts[1], axis=1)
    rows, columns = (
        np.diff(np.append(start, size)) for start, size in zip(starts, change.shape, strict=True)
    )
    return float((sums / (3 * rows[:, None] * columns[None, :])).max())
