"""From stored tokens to v: what a window's own length decides, and what of it is kept."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2rt.grounding.growing_array import forget
from r2rt.model.contract import VIDEO_FINALIZER

if TYPE_CHECKING:
    from r2rt.engines import Engine
    from r2rt.engines.base import Placed
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.windows import Window
    from r2rt.model.contract import ModelDims

__all__ = ["Finalizer"]

Floats = NDArray[np.float32]

# Clips finalised in one call: bounds what the graph takes meanwhile.
_CLIPS_AT_ONCE = 64


class Finalizer:
    """Finalises windows of encoded videos, each window as a video of its own.

    The windows of the video that was asked about last are kept while there is room, the first ones
    of them: further queries ask for all windows in order, so one kept late would be gone again
    before it is asked for. What is not kept is written into one and the same array.
    """

    def __init__(self, dims: ModelDims, engine: Engine) -> None:
        self._dims = dims
        self._engine = engine
        self._video: weakref.ref[EncodedVideo] | None = None
        self._kept: dict[Window, Placed] = {}
        self._kept_bytes = 0
        self._scratch: Placed | None = None

    def window(self, video: EncodedVideo, window: Window) -> Placed:
        """Return v (T, K, P, D) of a window, where the engine runs; the next call may void it."""
        tokens = video.tokens[window.start_clip : window.end_clip]
        if not self._dims.use_tef:
            forget(tokens)  # what the last window read of them
            return tokens
        if self._video is None or self._video() is not video:
            # Frees the last video's memory before this one's is taken.
            self._video = weakref.ref(video)
            self._kept, self._kept_bytes, self._scratch = {}, 0, None
        if window in self._kept:
            return self._kept[window]
        v = self._place((*tokens.shape[:-1], self._dims.width), window)
        self._run(tokens, v)
        forget(tokens)
        return v

    def whole(self, tokens: Floats) -> Floats:
        """Return v (T, K, P, D) float32 on the host from tokens (T, K, P, C) of a whole video."""
        if not self._dims.use_tef:
            return tokens
        v = np.empty((*tokens.shape[:-1], self._dims.width), dtype=np.float32)
        self._run(tokens, v)
        return v

    def _place(self, shape: tuple[int, ...], window: Window) -> Placed:
        size = 4 * math.prod(shape)
        if self._kept_bytes + size <= self._engine.kept_bytes:
            v = self._kept[window] = self._engine.empty(shape)
            self._kept_bytes += size
        elif self._scratch is not None and tuple(self._scratch.shape) == shape:
            v = self._scratch
        else:
            v = self._scratch = self._engine.empty(shape)
        return v

    def _run(self, tokens: Floats, v: Placed) -> None:
        clips = len(tokens)
        # Temporal endpoint features of clip t: t / T and (t + 1) / T.
        index = np.arange(clips + 1, dtype=np.float32) / np.float32(clips)
        endpoints = np.stack([index[:-1], index[1:]], axis=1)
        for start in range(0, clips, _CLIPS_AT_ONCE):
            part = slice(start, start + _CLIPS_AT_ONCE)
            self._engine.run(
                VIDEO_FINALIZER,
                {"tokens": tokens[part], "endpoints": endpoints[part]},
                {"v": v[part]},
            )
