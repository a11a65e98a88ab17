"""Launching a bundle's compiled kernels: modules, weights, arguments as the driver takes them."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2rt.engines.tensorrt.cubins import (
    Cubin,
    CubinRecord,
    Launch,
    LaunchSequence,
    Pointer,
    extent,
)
from r2rt.errors import BundleDamagedError, GpuError, R2rtError

if TYPE_CHECKING:
    from r2rt.engines.tensorrt.cuda import DeviceMemory, Function, Gpu, Stream
    from r2rt.engines.tensorrt.program import Step

__all__ = ["KernelStep", "Kernels", "SequenceStep", "Weights"]

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4, "int16": 2, "uint8": 1}

_CTYPES: dict[str, Any] = {
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64,
    "fp32": ctypes.c_float,
}


class Kernels:
    """The kernels of a bundle, each loaded onto the GPU when it is first launched."""

    def __init__(self, gpu: Gpu, cubins: Mapping[str, Cubin]) -> None:
        self._gpu = gpu
        self._cubins = cubins
        self._functions: dict[str, Function] = {}

    def step(
        self, launch: Launch, symbols: Mapping[str, int], addresses: Mapping[str, int]
    ) -> KernelStep:
        """Return a launch at fixed shapes and addresses.

        Raises:
            BundleDamagedError: the bundle has no such kernel, or not these arguments.
            GpuError: an address or a number is not aligned as the kernel was compiled to assume.
        """
        if launch.cubin not in self._cubins:
            raise BundleDamagedError(
                f"no kernel {launch.cubin} in the bundle, which has {', '.join(self._cubins)}; "
                "compile its kernels again"
            )
        record = self._cubins[launch.cubin].record
        if record.num_ctas > 1 or record.launch_pdl or record.launch_cooperative_grid:
            raise BundleDamagedError(
                f"kernel {launch.cubin} needs a cluster, a dependent or a cooperative launch, "
                "which r2rt does not do; compile it without"
            )
        grid = tuple(extent(size, symbols) for size in launch.grid)
        values = _values(launch, record, symbols, addresses)
        types = [_CTYPES.get(argument.type, ctypes.c_void_p) for argument in record.arguments]
        return KernelStep(self._gpu, self._function(launch.cubin), record, grid, values, types)

    def _function(self, stem: str) -> Function:
        if stem not in self._functions:
            cubin = self._cubins[stem]
            module = self._gpu.module(cubin.image)
            self._functions[stem] = module.function(
                cubin.record.entry,
                threads=32 * cubin.record.num_warps,
                shared_bytes=cubin.record.shared_bytes,
            )
        return self._functions[stem]


class KernelStep:
    """One launch at fixed shapes and addresses; see `r2rt.engines.tensorrt.program.Step`."""

    def __init__(
        self,
        gpu: Gpu,
        function: Function,
        record: CubinRecord,
        grid: Sequence[int],
        values: Sequence[int | float],
        types: Sequence[Any],
    ) -> None:
        self._function = function
        self._grid = grid
        self._scratch = ExitStack()
        pointers = []
        with ExitStack() as undo:
            undo.callback(self._scratch.close)
            # Triton passes the addresses of two scratch areas behind a kernel's own arguments.
            for nbytes in _scratch_sizes(record, grid):
                memory = gpu.alloc(nbytes) if nbytes else None
                if memory is not None:
                    self._scratch.callback(memory.close)
                pointers.append(memory.address if memory else 0)
            undo.pop_all()
        self._values = [*values, *pointers]
        self._types = [*types, ctypes.c_void_p, ctypes.c_void_p]

    def enqueue(self, stream: Stream) -> None:
        """Enqueue the launch."""
        self._function.launch(stream, self._grid, self._values, self._types)

    def can_be_captured(self, stream: Stream) -> bool:
        """Return True: a launch allocates nothing."""
        return True

    def close(self) -> None:
        """Free the scratch."""
        self._scratch.close()


class SequenceStep:
    """A whole sequence at fixed shapes and addresses; see `r2rt.engines.tensorrt.program.Step`.

    Args:
        gpu: where.
        sequence: what is done.
        symbols: sizes of the graph's dimensions. `MULTIPROCESSORS` is added, the GPU's own.
        addresses: of the graph's inputs and outputs, and of the weights.
        kernels: what is launched.
        make_call: makes the step that runs an engine on tensors at these addresses.

    Raises:
        BundleDamagedError: the sequence does not fit the kernels, the graph or itself.
    """

    def __init__(
        self,
        gpu: Gpu,
        sequence: LaunchSequence,
        symbols: Mapping[str, int],
        addresses: Mapping[str, int],
        *,
        kernels: Kernels,
        make_call: Callable[[str, Mapping[str, int], Mapping[str, int]], Step],
    ) -> None:
        self._steps: list[Step] = []
        self._owned = ExitStack()
        places = dict(addresses)
        symbols = {**symbols, "MULTIPROCESSORS": gpu.multiprocessors}
        with ExitStack() as undo:
            undo.callback(self._owned.close)
            try:
                for name, buffer in sequence.buffers.items():
                    if name in places:
                        raise ValueError(f"scratch {name} is also a tensor of the graph")
                    count = math.prod(extent(size, symbols) for size in buffer.shape)
                    memory = gpu.alloc(count * _ITEM_BYTES[buffer.dtype])
                    self._owned.callback(memory.close)
                    places[name] = memory.address
                for step in sequence.steps:
                    if isinstance(step, Launch):
                        made: Step = kernels.step(step, symbols, places)
                    else:
                        tensors = {name: places[buffer] for name, buffer in step.tensors.items()}
                        made = make_call(step.engine, symbols, tensors)
                    self._owned.callback(made.close)
                    self._steps.append(made)
            except (KeyError, ValueError) as error:
                if isinstance(error, R2rtError):
                    raise
                raise BundleDamagedError(
                    f"launches of {sequence.graph}: {error}; compile the bundle's kernels again"
                ) from error
            undo.pop_all()

    def enqueue(self, stream: Stream) -> None:
        """Enqueue every step in order."""
        for step in self._steps:
            step.enqueue(stream)

    def can_be_captured(self, stream: Stream) -> bool:
        """Return whether every step can be."""
        return all(step.can_be_captured(stream) for step in self._steps)

    def close(self) -> None:
        """Free scratch and what the steps hold."""
        self._owned.close()


class Weights:
    """Tensors of a safetensors file on the GPU, each aligned as any memory of the driver's is."""

    def __init__(self, gpu: Gpu, stream: Stream, path: Path) -> None:
        from safetensors import SafetensorError, deserialize

        try:
            tensors = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
        except (OSError, SafetensorError) as error:
            raise BundleDamagedError(
                f"{path}: {error}; compile the bundle's kernels again"
            ) from error
        self._memory: dict[str, DeviceMemory] = {}
        for name, tensor in tensors:
            data = np.frombuffer(tensor["data"], np.uint8)
            with closing(gpu.alloc_pinned(len(data))) as staging:
                staging.view((len(data),), np.uint8)[:] = data
                self._memory[name] = gpu.alloc(len(data))
                stream.upload(self._memory[name].address, staging, len(data))
                stream.synchronize()

    @property
    def addresses(self) -> dict[str, int]:
        """Where each tensor begins, by name."""
        return {name: memory.address for name, memory in self._memory.items()}


def _scratch_sizes(record: CubinRecord, grid: Sequence[int]) -> tuple[int, int]:
    """Return the bytes of the two scratch areas of a launch.

    Raises:
        BundleDamagedError: they must be aligned more strictly than the driver's memory is.
    """
    aligns = (record.global_scratch_align, record.profile_scratch_align)
    if max(aligns) > 256:
        raise BundleDamagedError(f"{record.entry}: scratch aligned to {max(aligns)} bytes")
    blocks = math.prod(grid)  # each a cluster of its own; see `Kernels.step`
    return blocks * record.global_scratch_bytes, blocks * record.profile_scratch_bytes


def _values(
    launch: Launch,
    record: CubinRecord,
    symbols: Mapping[str, int],
    addresses: Mapping[str, int],
) -> list[int | float]:
    wanted = {argument.name for argument in record.arguments}
    if wanted != launch.arguments.keys():
        raise BundleDamagedError(
            f"kernel {launch.cubin} takes {', '.join(sorted(wanted))}, its launch gives "
            f"{', '.join(sorted(launch.arguments))}; compile the bundle's kernels again"
        )
    values: list[int | float] = []
    for argument in record.arguments:
        given = launch.arguments[argument.name]
        if argument.type == "fp32" and isinstance(given, int | float):
            values.append(float(given))
            continue
        if isinstance(given, float) or isinstance(given, Pointer) != argument.type.startswith("*"):
            raise BundleDamagedError(
                f"kernel {launch.cubin}: {argument.name} is {argument.type}, its launch gives "
                f"{given}; compile the bundle's kernels again"
            )
        if isinstance(given, Pointer):
            if given.buffer not in addresses:
                raise BundleDamagedError(
                    f"kernel {launch.cubin}: no buffer {given.buffer} for {argument.name}; "
                    "compile the bundle's kernels again"
                )
            value = addresses[given.buffer] + extent(given.offset_bytes, symbols)
        else:
            value = extent(given, symbols)
        if value % argument.divisible_by:
            what = hex(value) if isinstance(given, Pointer) else str(value)
            raise GpuError(
                f"kernel {launch.cubin}: {argument.name} is {what}, and it was compiled to assume "
                f"a multiple of {argument.divisible_by}"
            )
        values.append(value)
    return values
