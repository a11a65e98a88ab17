"""The CUDA driver without PyTorch: memory, streams, events, modules and graphs that are all freed.

`Gpu` wraps the functions of `cuda.bindings.driver`, or of anything that has those it calls, so that
tests can put a driver of their own in its place. What it hands out belongs to it: closing a `Gpu`
frees whatever is still open, in reverse order, whether or not some of the calls fail.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from r2rt.errors import BackendUnavailableError, GpuError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "DeviceMemory",
    "Event",
    "Function",
    "Gpu",
    "Graph",
    "Handle",
    "Module",
    "PinnedMemory",
    "Stream",
]

# More dynamic shared memory than this must be asked for, function by function.
_FREE_SHARED_BYTES = 48 << 10
_H = TypeVar("_H", bound="Handle")


class Handle:
    """An object of the driver, which must be destroyed once."""

    def __init__(self, gpu: Gpu, value: Any, destroy: str) -> None:
        self._gpu = gpu
        self._destroy = destroy
        self.value = value
        self.is_open = True

    def close(self) -> None:
        """Destroy it; the second time does nothing."""
        if self.is_open:
            self.is_open = False
            self._gpu.forget(self)
            self._gpu.call(self._destroy, self.value)


class DeviceMemory(Handle):
    """Memory on the device, aligned to 256 bytes."""

    def __init__(self, gpu: Gpu, value: Any, nbytes: int) -> None:
        super().__init__(gpu, value, "cuMemFree")
        self.nbytes = nbytes

    @property
    def address(self) -> int:
        """Where it begins."""
        return int(self.value)


class PinnedMemory(Handle):
    """Host memory that the device reads and writes by itself. Views of it end with it."""

    def __init__(self, gpu: Gpu, value: Any, nbytes: int) -> None:
        super().__init__(gpu, value, "cuMemFreeHost")
        self.nbytes = nbytes

    @property
    def address(self) -> int:
        """Where it begins."""
        return int(self.value)

    def view(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Return its beginning as an array."""
        kind = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        if nbytes > self.nbytes:
            raise ValueError(f"{tuple(shape)} of {kind} take {nbytes} bytes, got {self.nbytes}")
        memory = (ctypes.c_uint8 * nbytes).from_address(self.address)
        return np.frombuffer(memoryview(memory), kind).reshape(shape)


class Event(Handle):
    """A point in a stream that others can wait for."""

    def record(self, stream: Stream) -> None:
        """Mark what was enqueued in the stream so far."""
        self._gpu.call("cuEventRecord", self.value, stream.value)

    def synchronize(self) -> None:
        """Wait until what was marked last is done; at once if nothing was."""
        self._gpu.call("cuEventSynchronize", self.value)


class Stream(Handle):
    """A queue of work that runs in order, beside other streams."""

    @property
    def address(self) -> int:
        """The stream as libraries beside the driver take it."""
        return int(self.value)

    def wait(self, event: Event) -> None:
        """Let what is enqueued from here on wait for an event."""
        self._gpu.call("cuStreamWaitEvent", self.value, event.value, 0)

    def upload(self, destination: int, source: PinnedMemory, nbytes: int) -> None:
        """Enqueue a copy to the device; the host must leave the source alone until it is done."""
        self._gpu.call("cuMemcpyHtoDAsync", destination, source.address, nbytes, self.value)

    def download(self, destination: PinnedMemory, source: int, nbytes: int) -> None:
        """Enqueue a copy to the host; what is there before it is done means nothing."""
        self._gpu.call("cuMemcpyDtoHAsync", destination.address, source, nbytes, self.value)

    def copy(self, destination: int, source: int, nbytes: int) -> None:
        """Enqueue a copy on the device."""
        self._gpu.call("cuMemcpyDtoDAsync", destination, source, nbytes, self.value)

    def synchronize(self) -> None:
        """Wait until all that was enqueued is done."""
        self._gpu.call("cuStreamSynchronize", self.value)


class Graph(Handle):
    """Captured work that is enqueued in one call."""

    def launch(self, stream: Stream) -> None:
        """Enqueue it; every address is as it was when it was captured."""
        self._gpu.call("cuGraphLaunch", self.value, stream.value)


class Function:
    """One kernel of a module, of which it is part."""

    def __init__(self, gpu: Gpu, value: Any, *, threads: int, shared_bytes: int) -> None:
        self._gpu = gpu
        self._value = value
        self._threads = threads
        self._shared_bytes = shared_bytes

    def launch(
        self,
        stream: Stream,
        grid: Sequence[int],
        values: Sequence[int | float],
        types: Sequence[Any],
    ) -> None:
        """Enqueue one launch.

        Args:
            stream: where to.
            grid: blocks in x, y and z.
            values: all arguments in order.
            types: the ctypes type of each.
        """
        self._gpu.call(
            "cuLaunchKernel",
            self._value,
            *grid,
            *(self._threads, 1, 1),
            self._shared_bytes,
            stream.value,
            (tuple(values), tuple(types)),
            0,
        )


class Module(Handle):
    """Loaded code."""

    def function(self, entry: str, *, threads: int, shared_bytes: int) -> Function:
        """Return a kernel by the name of its entry, to be launched with so many threads a block."""
        value = self._gpu.call("cuModuleGetFunction", self.value, entry.encode())
        if shared_bytes > _FREE_SHARED_BYTES:
            attribute = self._gpu.driver.CUfunction_attribute
            self._gpu.call(
                "cuFuncSetAttribute",
                value,
                attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                shared_bytes,
            )
        return Function(self._gpu, value, threads=threads, shared_bytes=shared_bytes)


class Gpu:
    """One GPU's primary context and all that was made in it.

    Args:
        driver: what has the functions of `cuda.bindings.driver`; that module itself if None.
        ordinal: which of the machine's GPUs, in the driver's order.

    Raises:
        BackendUnavailableError: the package, the driver or the GPU is missing.
    """

    def __init__(self, driver: Any = None, *, ordinal: int = 0) -> None:
        self.driver = _import_driver() if driver is None else driver
        self._open: dict[int, Handle] = {}
        # Memory whose last user is gone. It is freed by the next allocation, not at once: garbage
        # is collected at any time, and in the middle of a capture freeing would spoil it.
        self._dropped: deque[DeviceMemory] = deque()
        try:
            self.call("cuInit", 0)
            self._device = self.call("cuDeviceGet", ordinal)
            self._context = self.call("cuDevicePrimaryCtxRetain", self._device)
        except (GpuError, RuntimeError) as error:
            # Without libcuda the bindings raise an error of their own rather than return a status.
            line = str(error).strip().splitlines()[0]
            raise BackendUnavailableError(
                f"GPU {ordinal} cannot be opened ({line}); check that `nvidia-smi` lists it"
            ) from error
        self._is_open = True
        try:
            self.activate()
            attribute = self.driver.CUdevice_attribute
            self.compute_capability: tuple[int, int] = (
                self._attribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
                self._attribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
            )
            self.multiprocessors: int = self._attribute(
                attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
            )
        except BaseException:
            self.close()
            raise

    @property
    def target(self) -> str:
        """The compute capability as compilers name it, such as `sm_90`."""
        return "sm_{}{}".format(*self.compute_capability)

    def activate(self) -> None:
        """Make this GPU the one that calls of the current thread go to."""
        self.call("cuCtxSetCurrent", self._context)

    def close(self) -> None:
        """Free all that is open, the last first; the first error is raised when all was tried."""
        if not self._is_open:
            return
        self._is_open = False
        with ExitStack() as stack:
            stack.callback(self.call, "cuDevicePrimaryCtxRelease", self._device)
            for handle in list(self._open.values()):
                stack.callback(handle.close)
            stack.callback(self.call, "cuCtxSynchronize")
            stack.callback(self.activate)

    def free_bytes(self) -> int:
        """Return how much device memory is free now."""
        return int(self.call("cuMemGetInfo"))

    def alloc(self, nbytes: int) -> DeviceMemory:
        """Allocate device memory."""
        self.collect()
        value = self.call("cuMemAlloc", max(nbytes, 1))
        return self._own(DeviceMemory(self, value, nbytes))

    def alloc_pinned(self, nbytes: int) -> PinnedMemory:
        """Allocate host memory that the device can reach."""
        value = self.call("cuMemHostAlloc", max(nbytes, 1), 0)
        return self._own(PinnedMemory(self, value, nbytes))

    def stream(self) -> Stream:
        """Make a non-blocking stream: it does not wait for the default stream."""
        flag = self.driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        return self._own(Stream(self, self.call("cuStreamCreate", flag), "cuStreamDestroy"))

    def event(self) -> Event:
        """Make an event."""
        flag = self.driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
        return self._own(Event(self, self.call("cuEventCreate", flag), "cuEventDestroy"))

    def module(self, image: bytes) -> Module:
        """Load a cubin."""
        return self._own(Module(self, self.call("cuModuleLoadData", image), "cuModuleUnload"))

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Capture what `work` enqueues in a stream, without running it."""
        mode = self.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.call("cuStreamBeginCapture", stream.value, mode)
        try:
            work()
        except BaseException:
            # A capture that is not ended leaves the stream unusable.
            with suppress(GpuError):
                self._captured(stream).close()
            raise
        with closing(self._captured(stream)) as captured:
            value = self.call("cuGraphInstantiate", captured.value, 0)
            return self._own(Graph(self, value, "cuGraphExecDestroy"))

    def drop(self, memory: DeviceMemory) -> None:
        """Free memory with the next allocation; may be called from anywhere at any time."""
        self._dropped.append(memory)

    def collect(self) -> None:
        """Free what was dropped."""
        while self._dropped:
            self._dropped.popleft().close()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call the driver and return what it returns beside its status.

        Raises:
            GpuError: the status is not success.
        """
        status, *values = getattr(self.driver, name)(*arguments)
        if int(status):
            reason = getattr(status, "name", f"error {int(status)}")
            advice = "; free GPU memory or ask for less at once" if int(status) == 2 else ""
            raise GpuError(f"{name}: {reason}{advice}")
        return values[0] if values else None

    def forget(self, handle: Handle) -> None:
        """Stop owning a handle that was closed."""
        self._open.pop(id(handle), None)

    def _own(self, handle: _H) -> _H:
        self._open[id(handle)] = handle
        return handle

    def _captured(self, stream: Stream) -> Handle:
        graph = self.call("cuStreamEndCapture", stream.value)
        return self._own(Handle(self, graph, "cuGraphDestroy"))

    def _attribute(self, attribute: Any) -> int:
        return int(self.call("cuDeviceGetAttribute", attribute, self._device))


def _import_driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise BackendUnavailableError(
            f"the CUDA bindings for Python are missing ({error}); pip install cuda-bindings"
        ) from error
    return driver
