"""What every backend offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Array", "Engine"]

Array: TypeAlias = "NDArray[Any]"


class Engine(Protocol):
    """Runs the graphs of one bundle on one device.

    Graphs are opened on first use. An engine may be used by one thread at a time.
    """

    @property
    def name(self) -> str:
        """Backend and device, such as `onnxruntime-cpu`."""
        ...

    @property
    def frame_batch(self) -> int:
        """How many frames `video_encoder` is best given at once."""
        ...

    def run(
        self,
        graph: str,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """Run one graph.

        Args:
            graph: name of the graph, as in `r2rt.contract`.
            inputs: an array for every input of the graph's definition, C-contiguous.
            outputs: arrays that outputs are written into, where the caller wants them in place
                (C-contiguous, of the exact shape and dtype).

        Returns:
            Every output by name, those of `outputs` being the caller's own arrays.
        """
        ...

    def release(self, graph: str) -> None:
        """Free what an opened graph holds; it is opened again when it is next run."""
        ...
