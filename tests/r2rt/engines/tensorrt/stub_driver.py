# ruff: noqa: N802
"""A CUDA driver in Python: memory that is there, streams that run late and in any legal order.

It has the functions of `cuda.bindings.driver` that r2rt calls, as that module returns them. Work is
done when someone waits for it, or earlier at the whim of a seeded generator, and streams overtake
each other wherever no event forbids it: what was not ordered by the code under test goes wrong for
some seed. Handles are counted, and any call can be made to fail.
"""

from __future__ import annotations

import ctypes
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Kernel", "Op", "Status", "StubDriver", "floats_at"]

# Called with the grid and the values of all arguments.
Kernel = Callable[[tuple[int, ...], tuple[Any, ...]], None]


class Status(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


@dataclass(eq=False)
class Op:
    """One piece of enqueued work."""

    name: str
    run: Callable[[], object]
    after: tuple[Op, ...] = ()
    done: bool = False


@dataclass
class _Stream:
    queue: deque[Op] = field(default_factory=deque)
    captured: list[Op] | None = None
    speed: int = 1


def floats_at(address: int, shape: Sequence[int], dtype: Any = np.float32) -> NDArray[Any]:
    """The memory at an address as an array; the caller knows that it is there."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * nbytes).from_address(address)
    return np.frombuffer(memoryview(memory), dtype).reshape(shape)


class StubDriver:
    """See the module.

    Args:
        seed: decides in which order streams run.
        fail_at: number of the call, from 0, that returns an error in place of doing anything.
        kernels: what the functions of loaded modules do, by name.
        capability: the device's compute capability.
    """

    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT=16,
    )

    def __init__(
        self,
        *,
        seed: int = 0,
        fail_at: int | None = None,
        kernels: dict[str, Kernel] | None = None,
        capability: tuple[int, int] = (9, 0),
    ) -> None:
        self.calls: list[str] = []
        self.ran: list[str] = []
        self.images: list[bytes] = []  # code of the modules that were loaded
        self.blocks: list[
            tuple[int, int]
        ] = []  # of every launch, threads and shared bytes of a block
        self.faults: list[str] = []  # misuse that a real driver might forgive or punish
        self.failed: str | None = None
        self._random = random.Random(seed)
        # How much is done before anyone waits; nothing at all for every other seed.
        self._haste = 0 if seed % 2 else 3
        self._fail_at = fail_at
        self._kernels = kernels or {}
        self._capability = capability
        self._live: dict[int, tuple[str, Any]] = {}  # handle to kind and what it stands for
        self._next_handle = 1000
        self._memory: dict[int, NDArray[np.uint8]] = {}
        self._freed: list[NDArray[np.uint8]] = []

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if not name.startswith("cu") or not callable(value):
            return value

        def call(*arguments: Any) -> tuple[Any, ...]:
            number = len(self.calls)
            self.calls.append(name)
            if number == self._fail_at:
                self.failed = name
                return (Status.CUDA_ERROR_OUT_OF_MEMORY, None)
            result: tuple[Any, ...] = value(*arguments)
            return result

        return call

    def sizes(self, kind: str) -> list[int]:
        """Bytes of all memory of a kind that is still there, in the order of its making."""
        return [size for found, size in self._live.values() if found == kind]

    def leaks(self) -> list[str]:
        """Kinds of all handles that are still alive."""
        return sorted(kind for kind, _ in self._live.values())

    def is_capturing(self, stream: int) -> bool:
        """Whether what is enqueued in a stream goes into a graph."""
        return self._find(stream, "stream").captured is not None

    def enqueue(self, stream: int, op: Op) -> None:
        """Put work into a stream, as `cuLaunchKernel` does; engines call it for themselves."""
        state: _Stream = self._find(stream, "stream")
        if state.captured is not None:
            state.captured.append(op)
            return
        state.queue.append(op)
        for _ in range(self._random.randint(0, self._haste)):
            self._step()

    # context ------------------------------------------------------------------------------------

    def cuInit(self, flags: int) -> tuple[Any, ...]:
        return (Status.CUDA_SUCCESS,)

    def cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:
        return (Status.CUDA_SUCCESS, ordinal)

    def cuDeviceGetAttribute(self, attribute: int, device: int) -> tuple[Any, ...]:
        major, minor = self._capability
        return (Status.CUDA_SUCCESS, {75: major, 76: minor, 16: 4}[attribute])

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Any, ...]:
        return (Status.CUDA_SUCCESS, self._new("context", device))

    def cuDevicePrimaryCtxRelease(self, device: int) -> tuple[Any, ...]:
        handle = next(h for h, (kind, _) in self._live.items() if kind == "context")
        return self._destroy(handle, "context")

    def cuCtxSetCurrent(self, context: int) -> tuple[Any, ...]:
        self._find(context, "context")
        return (Status.CUDA_SUCCESS,)

    def cuCtxSynchronize(self) -> tuple[Any, ...]:
        while self._step():
            pass
        return (Status.CUDA_SUCCESS,)

    # memory -------------------------------------------------------------------------------------

    def cuMemAlloc(self, nbytes: int) -> tuple[Any, ...]:
        return self._allocate("device memory", nbytes)

    def cuMemGetInfo(self) -> tuple[Any, ...]:
        return Status.CUDA_SUCCESS, 8 << 30, 16 << 30

    def cuMemFree(self, address: int) -> tuple[Any, ...]:
        return self._release(address, "device memory")

    def cuMemHostAlloc(self, nbytes: int, flags: int) -> tuple[Any, ...]:
        return self._allocate("pinned memory", nbytes)

    def cuMemFreeHost(self, address: int) -> tuple[Any, ...]:
        return self._release(address, "pinned memory")

    def cuMemcpyHtoDAsync(self, to: int, source: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        self._within(to, nbytes, "device memory")
        self._within(source, nbytes, "pinned memory")
        self.enqueue(stream, Op("upload", lambda: ctypes.memmove(to, source, nbytes)))
        return (Status.CUDA_SUCCESS,)

    def cuMemcpyDtoHAsync(self, to: int, source: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        self._within(to, nbytes, "pinned memory")
        self._within(source, nbytes, "device memory")
        self.enqueue(stream, Op("download", lambda: ctypes.memmove(to, source, nbytes)))
        return (Status.CUDA_SUCCESS,)

    def cuMemcpyDtoDAsync(self, to: int, source: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        self._within(to, nbytes, "device memory")
        self._within(source, nbytes, "device memory")
        self.enqueue(stream, Op("copy", lambda: ctypes.memmove(to, source, nbytes)))
        return (Status.CUDA_SUCCESS,)

    # streams and events -------------------------------------------------------------------------

    def cuStreamCreate(self, flags: int) -> tuple[Any, ...]:
        speed = self._random.choice((1, 10, 100))
        return (Status.CUDA_SUCCESS, self._new("stream", _Stream(speed=speed)))

    def cuStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        return self._destroy(stream, "stream")

    def cuStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        state: _Stream = self._find(stream, "stream")
        if state.captured is not None:
            return (Status.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        while state.queue:
            assert self._step(), "streams wait for each other"
        return (Status.CUDA_SUCCESS,)

    def cuEventCreate(self, flags: int) -> tuple[Any, ...]:
        return (Status.CUDA_SUCCESS, self._new("event", [None]))

    def cuEventDestroy(self, event: int) -> tuple[Any, ...]:
        return self._destroy(event, "event")

    def cuEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        marker = Op("record", lambda: None)
        self._find(event, "event")[0] = marker
        self.enqueue(stream, marker)
        return (Status.CUDA_SUCCESS,)

    def cuEventSynchronize(self, event: int) -> tuple[Any, ...]:
        marker: Op | None = self._find(event, "event")[0]
        while marker is not None and not marker.done:
            assert self._step(), "the event is never reached"
        return (Status.CUDA_SUCCESS,)

    def cuEventElapsedTime(self, begin: int, end: int) -> tuple[Any, ...]:
        for event in (begin, end):
            marker: Op | None = self._find(event, "event")[0]
            assert marker is not None
            assert marker.done, "the event is not reached yet"
        return (Status.CUDA_SUCCESS, 0.5)

    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[Any, ...]:
        marker: Op | None = self._find(event, "event")[0]
        self.enqueue(stream, Op("wait", lambda: None, after=(marker,) if marker else ()))
        return (Status.CUDA_SUCCESS,)

    # graphs -------------------------------------------------------------------------------------

    def cuStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        self._find(stream, "stream").captured = []
        return (Status.CUDA_SUCCESS,)

    def cuStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        state: _Stream = self._find(stream, "stream")
        ops, state.captured = state.captured, None
        return (Status.CUDA_SUCCESS, self._new("graph", ops))

    def cuGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        return (Status.CUDA_SUCCESS, self._new("executable graph", self._find(graph, "graph")))

    def cuGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        return self._destroy(graph, "graph")

    def cuGraphExecDestroy(self, graph: int) -> tuple[Any, ...]:
        return self._destroy(graph, "executable graph")

    def cuGraphLaunch(self, graph: int, stream: int) -> tuple[Any, ...]:
        for op in self._find(graph, "executable graph"):
            self.enqueue(stream, Op(op.name, op.run))
        return (Status.CUDA_SUCCESS,)

    # code ---------------------------------------------------------------------------------------

    def cuModuleLoadData(self, image: bytes) -> tuple[Any, ...]:
        self.images.append(image)
        return (Status.CUDA_SUCCESS, self._new("module", image))

    def cuModuleUnload(self, module: int) -> tuple[Any, ...]:
        return self._destroy(module, "module")

    def cuModuleGetFunction(self, module: int, name: bytes) -> tuple[Any, ...]:
        self._find(module, "module")
        if name.decode() not in self._kernels:
            return (Status.CUDA_ERROR_NOT_FOUND, None)
        return (Status.CUDA_SUCCESS, name.decode())

    def cuFuncSetAttribute(self, function: str, attribute: int, value: int) -> tuple[Any, ...]:
        return (Status.CUDA_SUCCESS,)

    def cuLaunchKernel(
        self,
        function: str,
        grid_x: int,
        grid_y: int,
        grid_z: int,
        block_x: int,
        block_y: int,
        block_z: int,
        shared: int,
        stream: int,
        parameters: tuple[tuple[Any, ...], tuple[Any, ...]],
        extra: int,
    ) -> tuple[Any, ...]:
        grid, (values, types) = (grid_x, grid_y, grid_z), parameters
        assert len(values) == len(types)
        if min(grid) < 1 or block_x % 32:
            return (Status.CUDA_ERROR_INVALID_VALUE,)
        self.blocks.append((block_x * block_y * block_z, shared))
        self.enqueue(stream, Op(function, lambda: self._kernels[function](grid, values)))
        return (Status.CUDA_SUCCESS,)

    # --------------------------------------------------------------------------------------------

    def _step(self) -> bool:
        """Run one piece of work that may run now; return whether there was one."""
        streams = [state for kind, state in self._live.values() if kind == "stream"]
        ready = [s for s in streams if s.queue and all(op.done for op in s.queue[0].after)]
        if not ready:
            return False
        # Streams differ in speed, so that one may run far ahead of another.
        op = self._random.choices(ready, [s.speed for s in ready])[0].queue.popleft()
        op.run()
        op.done = True
        self.ran.append(op.name)
        return True

    def _new(self, kind: str, value: Any) -> int:
        self._next_handle += 1
        self._live[self._next_handle] = (kind, value)
        return self._next_handle

    def _find(self, handle: int, kind: str) -> Any:
        found, value = self._live.get(int(handle), ("nothing", None))
        assert found == kind, f"handle of a {kind} expected, it is {found}"
        return value

    def _destroy(self, handle: int, kind: str) -> tuple[Any, ...]:
        self._find(handle, kind)
        self._note_pending(kind)
        del self._live[int(handle)]
        return (Status.CUDA_SUCCESS,)

    def _allocate(self, kind: str, nbytes: int) -> tuple[Any, ...]:
        block = np.full(nbytes + 256, 0xFF, np.uint8)  # NaN, for who reads what was never written
        address = -(-block.ctypes.data // 256) * 256
        self._memory[address] = block
        self._live[address] = (kind, nbytes)
        return (Status.CUDA_SUCCESS, address)

    def _release(self, address: int, kind: str) -> tuple[Any, ...]:
        result = self._destroy(address, kind)
        # After a call that failed, work that is under way may still write there.
        self._freed.append(self._memory.pop(int(address)))
        return result

    def _within(self, address: int, nbytes: int, kind: str) -> None:
        assert any(
            found == kind and start <= address and address + nbytes <= start + size
            for start, (found, size) in self._live.items()
        ), f"{nbytes} bytes at {address:#x} are not all {kind}"

    def _note_pending(self, kind: str) -> None:
        if kind in {"graph", "event"}:
            return  # may go while work that was enqueued with them waits
        pending = [s for k, s in self._live.values() if k == "stream" and (s.queue or s.captured)]
        if pending and self.failed is None:
            self.faults.append(f"{kind} destroyed while work was waiting")
