"""From stored tokens to the grounder's inputs of a window, and what of them is kept."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2rt.grounding.growing_array import forget
from r2rt.model.contract import PATCH_BIAS, VIDEO_FINALIZER

if TYPE_CHECKING:
    from r2rt.engines import Engine
    from r2rt.engines.base import Placed
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.windows import Window
    from r2rt.model.contract import ModelDims

__all__ = ["CLIPS_AT_ONCE", "Finalizer"]

Floats = NDArray[np.float32]

# Clips finalised in one call: bounds what the graph takes meanwhile.
CLIPS_AT_ONCE = 64


class Finalizer:
    """Finalises windows of encoded videos, each window as a video of its own.

    The windows of the video that was asked about last are kept while there is room, the first ones
    of them: further queries ask for all windows in order, so one kept late would be gone again
    before it is asked for. What is not kept is written into one and the same array, until
    `end_round`.
    """

    def __init__(self, dims: ModelDims, engine: Engine) -> None:
        self._dims = dims
        self._engine = engine
        self._merges = dims.patch_bias and engine.merges
        self._video: weakref.ref[EncodedVideo] | None = None
        self._kept: dict[Window, dict[str, Placed]] = {}
        self._kept_bytes = 0
        self._scratch: Placed | None = None

    def window(self, video: EncodedVideo, window: Window) -> dict[str, Placed]:
        """Return v (T, K, R, D) of a window, where the engine runs, and its rows' bias (T, K, R).

        The bias is there where the engine takes one. The next call may void v.
        """
        if self._video is None or self._video() is not video:
            # Frees the last video's memory before this one's is taken.
            self._video = weakref.ref(video)
            self._kept, self._kept_bytes, self._scratch = {}, 0, None
        if window in self._kept:
            return self._kept[window]
        tokens, bias = self._rows(video, window)
        if not self._dims.use_tef:
            forget(tokens)  # what the last window read of them
            return {"v": tokens, **bias}
        shape = (*tokens.shape[:-1], self._dims.width)
        size = 4 * math.prod(shape)
        v = self._place(shape, size)
        self._run(tokens, v)
        forget(tokens)
        found: dict[str, Placed] = {"v": v, **bias}
        if v is not self._scratch:
            self._kept[window] = found
            self._kept_bytes += size
        return found

    def end_round(self) -> None:
        """Free the array of windows that are not kept; it may be as large as a whole video."""
        self._scratch = None

    def _rows(self, video: EncodedVideo, window: Window) -> tuple[Floats, dict[str, Floats]]:
        """Return a window's rows (T, K, R, C), and their bias where the engine takes one."""
        if video.compact is None:
            tokens = video.tokens[window.start_clip : window.end_clip]
            bias = np.zeros(tokens.shape[:-1], np.float32) if self._merges else None
        else:
            part = video.compact.part(window.start_clip, window.end_clip)
            # Rows repeated by their counts are the same, but for the time that they take.
            tokens = part.rows() if self._merges else part.repeated()
            bias = part.bias() if self._merges else None
        return tokens, {} if bias is None else {PATCH_BIAS: bias}

    def whole(self, tokens: Floats) -> Floats:
        """Return v (T, K, P, D) float32 on the host from tokens (T, K, P, C) of a whole video."""
        if not self._dims.use_tef:
            return tokens
        v = np.empty((*tokens.shape[:-1], self._dims.width), dtype=np.float32)
        self._run(tokens, v)
        return v

    def _place(self, shape: tuple[int, ...], size: int) -> Placed:
        if self._kept_bytes + size <= self._engine.kept_bytes:
            return self._engine.empty(shape)
        if self._scratch is None or tuple(self._scratch.shape) != shape:
            self._scratch = self._engine.empty(shape)
        return self._scratch

    def _run(self, tokens: Floats, v: Placed) -> None:
        clips = len(tokens)
        # Temporal endpoint features of clip t: t / T and (t + 1) / T.
        index = np.arange(clips + 1, dtype=np.float32) / np.float32(clips)
        endpoints = np.stack([index[:-1], index[1:]], axis=1)
        for start in range(0, clips, CLIPS_AT_ONCE):
            part = slice(start, start + CLIPS_AT_ONCE)
            self._engine.run(
                VIDEO_FINALIZER,
                {"tokens": tokens[part], "endpoints": endpoints[part]},
                {"v": v[part]},
            )
