"""What every backend offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from r2rt.engines.resident import DeviceArray

__all__ = ["Array", "Engine", "PipelinedEngine", "Placed"]

Array: TypeAlias = "NDArray[Any]"
# An array on the host or where the graphs run.
Placed: TypeAlias = "NDArray[Any] | DeviceArray"


class Engine(Protocol):
    """Runs the graphs of one bundle on one device.

    Graphs are opened on first use. Threads share an engine through
    `r2rt.engines.exclusive.for_threads`.
    """

    @property
    def name(self) -> str:
        """Backend and device, such as `onnxruntime-cpu`."""
        ...

    @property
    def frame_batch(self) -> int:
        """How many frames `video_encoder` is best given at once."""
        ...

    @property
    def concurrent(self) -> bool:
        """Whether threads may call `run` and `empty` at the same time."""
        ...

    @property
    def merges(self) -> bool:
        """Whether graphs take any number of rows a frame, and `patch_bias`."""
        ...

    def run(
        self,
        graph: str,
        inputs: Mapping[str, Placed],
        outputs: Mapping[str, Placed] | None = None,
    ) -> dict[str, Array]:
        """Run one graph.

        Args:
            graph: name of the graph, as in `r2rt.model.contract`.
            inputs: an array for every input of the graph's definition, C-contiguous.
            outputs: arrays that outputs are written into, where the caller wants them in place
                (C-contiguous, of the exact shape and dtype).

        Returns:
            Every output on the host by name, those of `outputs` being the caller's own arrays.
        """
        ...

    def empty(self, shape: Sequence[int]) -> Placed:
        """Return memory for v where the graphs run, to pass from one graph to another.

        It is float32 on the host; on a device, of the type that the engine's graphs have v in. Runs
        of its first dimension can be taken as of any array; it is freed with the last of them.
        """
        ...

    @property
    def kept_bytes(self) -> int:
        """How much memory of `empty` may be kept for further queries."""
        ...

    def release(self, graph: str) -> None:
        """Free what an opened graph holds; it is opened again when it is next run."""
        ...

    def close(self) -> None:
        """Free everything, and keep what was compiled for the next process; may be called twice."""
        ...


@runtime_checkable
class PipelinedEngine(Engine, Protocol):
    """An engine that encodes frames while the next ones are prepared."""

    def submit(self, frames: NDArray[np.uint8], outputs: Mapping[str, NDArray[np.float32]]) -> None:
        """Begin to run `video_encoder` on frames, which may be written over at once.

        The outputs are in their places after `finish`, not before.
        """
        ...

    def finish(self) -> None:
        """Wait until the outputs of everything submitted are in their places."""
        ...
