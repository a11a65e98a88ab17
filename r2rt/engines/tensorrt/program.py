"""One graph at fixed shapes on the GPU: its buffers, its steps, and the CUDA graph made of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from r2rt.engines.tensorrt.buckets import pad_into, shape_of
from r2rt.errors import GpuError
from r2rt.model.contract import GraphSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from r2rt.engines.resident import DeviceArray
    from r2rt.engines.tensorrt.cuda import DeviceMemory, Gpu, Graph, PinnedMemory, Stream

__all__ = ["MakeSteps", "Program", "Step"]

_log = logging.getLogger(__name__)


class Step(Protocol):
    """A piece of device work that can be enqueued again and again."""

    def enqueue(self, stream: Stream) -> None:
        """Enqueue it once."""
        ...

    def can_be_captured(self, stream: Stream) -> bool:
        """Return whether `enqueue` may go into a CUDA graph, as far as that is known before."""
        ...

    def close(self) -> None:
        """Free what it holds on the device."""
        ...


# Makes the steps of a graph from its symbols and the address of each input and output.
MakeSteps = Callable[[Mapping[str, int], Mapping[str, int]], Sequence[Step]]


class Program:
    """A graph at fixed shapes.

    Every input and output has memory on the device. What comes from the host or goes to it passes
    through pinned memory, made when it is first needed; what the caller keeps on the device is
    copied there, so that one CUDA graph serves all of it.
    The steps are run one by one the first time, since engines settle then, captured the second, and
    enqueued as one CUDA graph from then on. Steps that cannot be captured go on one by one.

    Args:
        gpu: where.
        spec: the graph's definition.
        symbols: sizes of its dimensions.
        dtypes: of the inputs and outputs that are not in the contract's type.
        make_steps: makes what is to be done.
    """

    def __init__(
        self,
        gpu: Gpu,
        spec: GraphSpec,
        symbols: Mapping[str, int],
        *,
        make_steps: MakeSteps,
        dtypes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._gpu = gpu
        self._name = spec.name
        self._shapes = {
            tensor.name: (
                shape_of(tensor, symbols),
                np.dtype(dtypes.get(tensor.name, tensor.dtype)),
            )
            for tensor in (*spec.inputs, *spec.outputs)
        }
        self._device: dict[str, DeviceMemory] = {}
        self._host: dict[str, tuple[PinnedMemory, NDArray[Any]]] = {}
        self._steps: Sequence[Step] = ()
        self._runs = 0
        self._graph: Graph | None = None
        self._owned = ExitStack()
        with ExitStack() as undo:
            undo.callback(self.close)
            for name, (shape, dtype) in self._shapes.items():
                memory = gpu.alloc(math.prod(shape) * dtype.itemsize)
                self._owned.callback(memory.close)
                self._device[name] = memory
            addresses = {name: memory.address for name, memory in self._device.items()}
            self._steps = make_steps(symbols, addresses)
            for step in self._steps:
                self._owned.callback(step.close)
            undo.pop_all()

    @property
    def is_captured(self) -> bool:
        """Whether the steps are enqueued as one CUDA graph by now."""
        return self._graph is not None

    def upload(self, stream: Stream, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Copy inputs, padded, to pinned memory, and enqueue the copies from there to the device.

        The upload before must be done, as far as the host is concerned.
        """
        for name, array in inputs.items():
            host, view = self._pinned(name)
            pad_into(view, array)
            stream.upload(self._device[name].address, host, host.nbytes)

    def compute(self, stream: Stream) -> None:
        """Enqueue the steps."""
        self._runs += 1
        if self._runs == 2:
            self._capture(stream)
        if self._graph is None:
            self._enqueue_steps(stream)
        else:
            self._graph.launch(stream)

    def download(self, stream: Stream, name: str) -> None:
        """Enqueue the copy of an output to pinned memory."""
        host, _ = self._pinned(name)
        stream.download(host, self._device[name].address, host.nbytes)

    def copy_in(self, stream: Stream, name: str, array: DeviceArray) -> None:
        """Enqueue the copy of an input that lies elsewhere on the device; see `check_place`."""
        stream.copy(self._device[name].address, array.address, array.nbytes)

    def copy_out(self, stream: Stream, name: str, place: DeviceArray) -> None:
        """Enqueue the copy of an output to another place on the device; see `check_place`."""
        stream.copy(place.address, self._device[name].address, place.nbytes)

    def check_place(self, name: str, place: NDArray[Any] | DeviceArray) -> None:
        """Check an array on the device against an input or output, which it is without padding.

        Raises:
            ValueError: the array is of another shape or type.
        """
        shape, dtype = self._shapes[name]
        if not isinstance(place, np.ndarray) and (place.shape, place.dtype) != (shape, dtype):
            raise ValueError(f"{name} is {dtype} {shape}, its place {place.dtype} {place.shape}")

    def result(self, name: str, shape: Sequence[int]) -> NDArray[Any]:
        """Return the part of an output that is no padding; the next `download` overwrites it."""
        return self._pinned(name)[1][tuple(slice(size) for size in shape)]

    def close(self) -> None:
        """Free all of it; nothing may still run."""
        self._steps = ()
        self._host.clear()
        self._owned.close()

    def _pinned(self, name: str) -> tuple[PinnedMemory, NDArray[Any]]:
        if name not in self._host:
            shape, dtype = self._shapes[name]
            memory = self._gpu.alloc_pinned(math.prod(shape) * dtype.itemsize)
            self._owned.callback(memory.close)
            self._host[name] = memory, memory.view(shape, dtype)
        return self._host[name]

    def _capture(self, stream: Stream) -> None:
        """Make a CUDA graph of the steps, unless they cannot be captured."""
        problem = "it cannot be captured"
        if all(step.can_be_captured(stream) for step in self._steps):
            try:
                self._graph = self._gpu.capture(stream, lambda: self._enqueue_steps(stream))
            except GpuError as error:
                problem = str(error)
            else:
                self._owned.callback(self._graph.close)
                return
        _log.info("%s runs without a CUDA graph: %s", self._name, problem)

    def _enqueue_steps(self, stream: Stream) -> None:
        for step in self._steps:
            step.enqueue(stream)
