"""Frames to tokens with uploads, computation and downloads side by side.

Two slots take turns. While one's frames are computed, the host fills the other's pinned memory and
its upload runs; the outputs of the one before go down meanwhile. Three streams, one for each kind
of work, are tied by events:

    upload    waits until the slot's last computation has read its frames
    compute   waits for the slot's upload, and until its last outputs have gone down
    download  waits for the slot's computation
    host      fills a slot once its last upload is done; takes outputs once its download is
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from r2rt.engines.tensorrt.cuda import Gpu
    from r2rt.engines.tensorrt.program import Program

__all__ = ["SLOTS", "FramePipeline"]

SLOTS = 2


class FramePipeline:
    """Encodes batches of frames; opened on first use.

    Args:
        gpu: where.
        bucket: returns how many frames the program takes that encodes so many.
        open_program: makes a new program of `video_encoder` for exactly so many frames.
    """

    def __init__(
        self, gpu: Gpu, bucket: Callable[[int], int], open_program: Callable[[int], Program]
    ) -> None:
        self._gpu = gpu
        self._bucket = bucket
        self._open_program = open_program
        self._slots: list[_Slot] = []
        self._submitted = 0

    def submit(self, frames: NDArray[np.uint8], outputs: Mapping[str, NDArray[np.float32]]) -> None:
        """Begin to encode frames (B, S, S, 3), which may be written over at once.

        The outputs, such as tokens (B, K, P, C), are in their places after `finish`, not before.
        """
        if not self._slots:
            self._open()
        slot = self._slots[self._submitted % SLOTS]
        self._submitted += 1
        program = self._program(slot, len(frames))
        slot.uploaded.synchronize()
        self._upload.wait(slot.computed)
        program.upload(self._upload, {"frames": frames})
        slot.uploaded.record(self._upload)
        self._compute.wait(slot.uploaded)
        self._compute.wait(slot.downloaded)
        program.compute(self._compute)
        slot.computed.record(self._compute)
        slot.take()
        self._download.wait(slot.computed)
        for name in outputs:
            program.download(self._download, name)
        slot.downloaded.record(self._download)
        slot.program, slot.outputs = program, outputs

    def finish(self) -> None:
        """Wait until all outputs are in their places."""
        for offset in range(len(self._slots)):
            self._slots[(self._submitted + offset) % SLOTS].take()

    def clear(self) -> None:
        """Give up what is under way and free all of it."""
        if not self._slots:
            return
        slots, self._slots = self._slots, []
        streams = (self._upload, self._compute, self._download)
        with ExitStack() as stack:  # the last first, and all of them whatever fails
            for stream in streams:
                stack.callback(stream.close)
            for slot in slots:
                stack.callback(slot.close)
            for stream in streams:
                stack.callback(stream.synchronize)

    def _open(self) -> None:
        self._upload = self._gpu.stream()
        self._compute = self._gpu.stream()
        self._download = self._gpu.stream()
        self._slots = [_Slot(self._gpu) for _ in range(SLOTS)]

    def _program(self, slot: _Slot, frames: int) -> Program:
        """Return the slot's own program for so many frames."""
        size = self._bucket(frames)
        if size not in slot.programs:
            slot.programs[size] = self._open_program(size)
        return slot.programs[size]


class _Slot:
    """One of the batches under way."""

    def __init__(self, gpu: Gpu) -> None:
        self.uploaded, self.computed, self.downloaded = gpu.event(), gpu.event(), gpu.event()
        self.programs: dict[int, Program] = {}
        self.program: Program | None = None
        self.outputs: Mapping[str, NDArray[np.float32]] = {}

    def take(self) -> None:
        """Wait for the batch in this slot and put its outputs where they belong."""
        if self.program is None:
            return
        self.downloaded.synchronize()
        for name, place in self.outputs.items():
            np.copyto(place, self.program.result(name, place.shape))
        self.program, self.outputs = None, {}

    def close(self) -> None:
        with ExitStack() as stack:
            for handle in (self.uploaded, self.computed, self.downloaded):
                stack.callback(handle.close)
            for program in self.programs.values():
                stack.callback(program.close)
