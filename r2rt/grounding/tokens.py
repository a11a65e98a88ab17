"""Frames in, tokens out: batches frames through `video_encoder` into one growing array."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2rt.engines.base import PipelinedEngine
from r2rt.grounding.growing_array import GrowingArray, forget
from r2rt.model.contract import VIDEO_ENCODER, ModelDims

if TYPE_CHECKING:
    from r2rt.engines.base import Engine

__all__ = ["TokenBuffer"]

# Clips written at once of a frame that is repeated: bounds what is in memory of what is on disk.
_CLIPS_AT_ONCE = 256


class TokenBuffer:
    """Encodes clips' frames in batches and keeps their tokens in order.

    The tokens of a full batch are written by the engine straight into their place, where the engine
    can while the next batch is prepared.

    Args:
        engine: what runs `video_encoder`.
        dims: sizes of the model.
        expected_clips: how many clips to make room for; more is found when more come.
    """

    def __init__(self, engine: Engine, dims: ModelDims, *, expected_clips: int) -> None:
        self._engine = engine
        self._pipelined = engine if isinstance(engine, PipelinedEngine) else None
        size = dims.image_size
        self._frames = np.empty((engine.frame_batch, size, size, 3), dtype=np.uint8)
        self._counts: list[int] = []
        token_shape = (dims.layers, dims.patches, dims.token_width)
        self._tokens = GrowingArray(token_shape, expected_clips)
        self._encoded = 0

    @property
    def num_clips(self) -> int:
        """Clips added so far, encoded or waiting for their batch to fill."""
        return self._encoded + sum(self._counts)

    def add(self, pixels: NDArray[np.uint8], count: int = 1) -> None:
        """Add one frame (S, S, 3) uint8 that stands for `count` consecutive clips."""
        self._frames[len(self._counts)] = pixels
        self._counts.append(count)
        if len(self._counts) == len(self._frames):
            self.flush()

    def drop_oldest(self, clips: int) -> None:
        """Drop the tokens of the oldest clips; their room is used again."""
        self.flush()
        self._finish()
        rest = self._encoded - clips
        rows = self._tokens.rows
        rows[:rest] = rows[clips : self._encoded]  # NumPy minds parts that overlap
        self._encoded = rest

    def flush(self) -> None:
        """Encode the frames that still wait."""
        waiting = len(self._counts)
        if not waiting:
            return
        clips = sum(self._counts)
        self._reserve(self._encoded + clips)
        inputs = {"frames": self._frames[:waiting]}
        place = self._tokens.rows[self._encoded : self._encoded + clips]
        if clips == waiting and self._pipelined is not None:
            self._pipelined.submit(self._frames[:waiting], place)
        elif clips == waiting:
            self._engine.run(VIDEO_ENCODER, inputs, {"tokens": place})
        else:
            tokens = self._engine.run(VIDEO_ENCODER, inputs)["tokens"]
            self._repeat(tokens, place)
        self._encoded += clips
        self._counts.clear()
        if self._tokens.spilled:
            forget(self._tokens.rows)

    def _repeat(self, tokens: NDArray[np.float32], place: NDArray[np.float32]) -> None:
        """Write every frame's tokens as often as it has clips, which can be thousands of times."""
        end = 0
        for row, count in zip(tokens, self._counts, strict=True):
            start, end = end, end + count
            for at in range(start, end, _CLIPS_AT_ONCE):
                place[at : min(at + _CLIPS_AT_ONCE, end)] = row
                if self._tokens.spilled and count > _CLIPS_AT_ONCE:
                    forget(place)

    def tokens(self) -> NDArray[np.float32]:
        """Return the tokens (T, K, P, C) float32 of all clips: a view that `add` may void."""
        self.flush()
        self._finish()
        return self._tokens.rows[: self._encoded]

    def _reserve(self, clips: int) -> None:
        if clips > len(self._tokens.rows):
            self._finish()  # before what is on its way lands in the array that is given up
            self._tokens.reserve(clips, used=self._encoded)

    def _finish(self) -> None:
        if self._pipelined is not None:
            self._pipelined.finish()
