"""TensorRT and TensorRT-RTX without PyTorch: engines, compiled kernels, CUDA graphs.

Each graph of a bundle is one engine, or the bundle's launches of its compiled kernels where it has
some for this GPU. It is run at few shapes (`r2rt.engines.tensorrt.buckets`), each of which is a
CUDA graph from its second run on, where it can be captured (`r2rt.engines.tensorrt.program`). v,
which stays on the GPU, is fp16 if both graphs that share it are launches.
"""

from __future__ import annotations

import functools
import logging
import math
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from r2rt.engines.resident import DeviceArray
from r2rt.engines.tensorrt.buckets import bucketed, shape_of, symbols_of
from r2rt.engines.tensorrt.cubins import (
    Call,
    LaunchSequence,
    kernels_folder,
    read_cubins,
    read_sequence,
)
from r2rt.engines.tensorrt.cuda import Gpu
from r2rt.engines.tensorrt.execution import (
    MODULES,
    EngineStep,
    Plan,
    import_runtime,
    message_log,
)
from r2rt.engines.tensorrt.launcher import Kernels, SequenceStep, Weights
from r2rt.engines.tensorrt.pipeline import FramePipeline
from r2rt.engines.tensorrt.plans import FlavourName, find_engine, read_plan, source_graph
from r2rt.engines.tensorrt.program import MakeSteps, Program, Step
from r2rt.errors import BundleDamagedError, GpuError
from r2rt.model.contract import (
    GROUNDER,
    PATCH_BIAS,
    VIDEO_ENCODER,
    VIDEO_FINALIZER,
    GraphSpec,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from r2rt.engines.base import Array, Engine, Placed
    from r2rt.model.bundle import Bundle

__all__ = ["TensorRTEngine"]

# Shapes of one graph whose buffers and CUDA graph are kept.
_PROGRAMS_KEPT = 8
_log = logging.getLogger(__name__)


class TensorRTEngine:
    """Runs a bundle's engines and kernels on one GPU; see `r2rt.engines.base.Engine`.

    Args:
        bundle: the bundle.
        flavour: which of the two runtimes.
        gpu: the GPU, which the engine closes with itself; the first one if None.
        runtime: the runtime's module; imported if None.
        beyond: runs graphs on the host for more clips than the engine takes, and is closed with it;
            if None, such videos are refused.

    Raises:
        BackendUnavailableError: package, driver, GPU or a fitting engine is missing.
    """

    def __init__(
        self,
        bundle: Bundle,
        flavour: FlavourName,
        *,
        gpu: Gpu | None = None,
        runtime: Any = None,
        beyond: Engine | None = None,
    ) -> None:
        self._bundle = bundle
        self._beyond = beyond
        self._flavour = flavour
        self._trt = import_runtime(flavour) if runtime is None else runtime
        self._gpu = Gpu() if gpu is None else gpu
        self._programs: dict[str, dict[object, Program]] = {}
        self._plans: dict[str, Plan] = {}
        self._pipeline = FramePipeline(self._gpu, self._frame_bucket, self._frame_program)
        with ExitStack() as undo:
            undo.callback(self.close)
            self.manifest = find_engine(
                bundle,
                flavour=flavour,
                version=str(self._trt.__version__),
                capability="{}.{}".format(*self._gpu.compute_capability),
            )
            self._stream = self._gpu.stream()
            self._messages = message_log(self._trt)
            self._runtime = self._trt.Runtime(self._messages)
            self._kernels = Kernels(self._gpu, read_cubins(bundle, self._gpu.target))
            undo.pop_all()

    @property
    def name(self) -> str:
        """Backend and device."""
        return f"{MODULES[self._flavour].replace('_', '-')}-{self.manifest.precision}"

    @property
    def frame_batch(self) -> int:
        """Frames that are best encoded at once: what the engine was tuned for."""
        return self.manifest.plans[VIDEO_ENCODER].ranges["B"].usual

    @property
    def kept_bytes(self) -> int:
        """A quarter of the GPU's memory that was free when this was first asked."""
        return self._kept_bytes

    @functools.cached_property
    def _kept_bytes(self) -> int:
        self._gpu.activate()
        return self._gpu.free_bytes() // 4

    @property
    def concurrent(self) -> bool:
        """False: buffers and the CUDA stream are shared by all calls."""
        return False

    @property
    def merges(self) -> bool:
        """False: engines and kernels are built for P rows a frame."""
        return False

    def run(
        self,
        graph: str,
        inputs: Mapping[str, Array | DeviceArray],
        outputs: Mapping[str, Array | DeviceArray] | None = None,
    ) -> dict[str, Array]:
        """Run one graph; see `Engine.run`."""
        self._gpu.activate()
        spec = self._bundle.engine_graphs[graph]
        outputs = outputs or {}
        symbols = symbols_of(spec, inputs, self._bundle.dims.strides)
        most = self.manifest.plans[graph].ranges
        if self._beyond is not None and "T" in most and symbols["T"] > most["T"].most:
            return self._run_beyond(self._beyond, spec, inputs, outputs)
        if "N" in most and symbols["N"] > most["N"].most:
            return self._run_in_parts(spec, inputs, most["N"].most)
        padded = bucketed(spec, symbols, most)
        resident = any(
            array.dtype == np.float16
            for array in (*inputs.values(), *outputs.values())
            if isinstance(array, DeviceArray)
        )
        program = self._program(spec, padded, resident=resident)
        for name, array in (*inputs.items(), *outputs.items()):
            program.check_place(name, array)
        for name, array in inputs.items():
            if isinstance(array, DeviceArray):
                program.copy_in(self._stream, name, array)
            else:
                program.upload(self._stream, {name: array})
        program.compute(self._stream)
        for tensor in spec.outputs:
            place = outputs.get(tensor.name)
            if isinstance(place, DeviceArray):
                program.copy_out(self._stream, tensor.name, place)
            else:
                program.download(self._stream, tensor.name)
        self._stream.synchronize()
        results = {}
        for tensor in spec.outputs:
            place = outputs.get(tensor.name)
            if isinstance(place, DeviceArray):
                continue
            result = program.result(tensor.name, shape_of(tensor, symbols))
            results[tensor.name] = np.empty_like(result) if place is None else place
            np.copyto(results[tensor.name], result)
        return results

    def empty(self, shape: Sequence[int]) -> Placed:
        """Return device memory for v; see `Engine.empty`. It is the host's for too many clips."""
        most = self.manifest.plans[GROUNDER].ranges["T"].most
        if self._beyond is not None and shape[0] > most:
            _log.warning("%d clips are grounded on the CPU: the engine takes %d", shape[0], most)
            return np.empty(shape, np.float32)
        self._gpu.activate()
        kind = self._resident_dtype
        memory = self._gpu.alloc(math.prod(shape) * kind.itemsize)
        owner = _Owner()
        weakref.finalize(owner, self._gpu.drop, memory)
        return DeviceArray(address=memory.address, shape=tuple(shape), dtype=kind, owner=owner)

    def submit(self, frames: NDArray[np.uint8], outputs: Mapping[str, NDArray[np.float32]]) -> None:
        """Encode frames while the next are prepared; see `PipelinedEngine.submit`."""
        self._gpu.activate()
        self._pipeline.submit(frames, outputs)

    def finish(self) -> None:
        """Wait for what was submitted; see `PipelinedEngine.finish`."""
        self._gpu.activate()
        self._pipeline.finish()

    def release(self, graph: str) -> None:
        """Free the engine, buffers and CUDA graphs of a graph."""
        names = [name for name in self._plans if source_graph(name) == graph]
        with ExitStack() as stack:  # the last first, and all of them whatever fails
            for name in names:
                stack.callback(self._plans.pop(name).keep_cache)
            for program in self._programs.pop(graph, {}).values():
                stack.callback(program.close)
            if graph == VIDEO_ENCODER:
                stack.callback(self._pipeline.clear)
            if self._beyond is not None:
                stack.callback(self._beyond.release, graph)
            stack.callback(self._stream.synchronize)  # a run that failed may have left work behind
            stack.callback(self._gpu.activate)

    def close(self) -> None:
        """Free everything on the GPU; the engine cannot be used afterwards."""
        # Contexts and engines must be gone before the memory and the GPU that they run on.
        with ExitStack() as stack:
            stack.callback(self._gpu.close)
            if self._beyond is not None:
                stack.callback(self._beyond.close)
            for graph in {*map(source_graph, self._plans), *self._programs}:
                stack.callback(self.release, graph)

    def _run_beyond(
        self,
        beyond: Engine,
        spec: GraphSpec,
        inputs: Mapping[str, Placed],
        outputs: Mapping[str, Placed],
    ) -> dict[str, Array]:
        """Run a graph of more clips than the engine takes; its arrays are the host's by `empty`."""
        if spec.name == GROUNDER and beyond.merges:
            bias = np.zeros(inputs["v"].shape[:-1], np.float32)
            inputs = {**inputs, PATCH_BIAS: bias}
        return beyond.run(spec.name, inputs, outputs)

    def _run_in_parts(
        self, spec: GraphSpec, inputs: Mapping[str, Array | DeviceArray], at_once: int
    ) -> dict[str, Array]:
        """Run more queries than the engine takes, some at a time."""
        by_query = [tensor.name for tensor in spec.inputs if tensor.shape[0] == "N"]
        parts = []
        for start in range(0, len(inputs[by_query[0]]), at_once):
            part = slice(start, start + at_once)
            chosen = {name: inputs[name][part] for name in by_query}
            parts.append(self.run(spec.name, {**inputs, **chosen}))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _program(self, spec: GraphSpec, symbols: Mapping[str, int], *, resident: bool) -> Program:
        """Return the program of these shapes, making room by closing the oldest."""
        programs = self._programs.setdefault(spec.name, {})
        key = (tuple(sorted(symbols.items())), resident)
        program = programs.pop(key, None)
        sequence = self._sequences.get((spec.name, resident))
        while program is None:
            if len(programs) >= _PROGRAMS_KEPT:
                self._close_oldest(programs)
            try:
                program = Program(
                    self._gpu,
                    spec,
                    symbols,
                    dtypes=sequence.dtypes if sequence else {},
                    make_steps=self._make_steps(spec, sequence),
                )
            except GpuError:  # such as too little memory, which the others may hold
                if not programs:
                    raise
                self._close_oldest(programs)
        programs[key] = program
        return program

    def _close_oldest(self, programs: dict[object, Program]) -> None:
        self._stream.synchronize()
        programs.pop(next(iter(programs))).close()

    def _frame_bucket(self, frames: int) -> int:
        """Return how many frames these are padded to."""
        spec = self._bundle.engine_graphs[VIDEO_ENCODER]
        return bucketed(spec, {"B": frames}, self.manifest.plans[VIDEO_ENCODER].ranges)["B"]

    def _frame_program(self, frames: int) -> Program:
        """Return a program of its own for a slot of the pipeline."""
        spec = self._bundle.engine_graphs[VIDEO_ENCODER]
        return Program(self._gpu, spec, {"B": frames}, make_steps=self._make_steps(spec, None))

    def _make_steps(self, spec: GraphSpec, sequence: LaunchSequence | None) -> MakeSteps:
        if sequence is None:
            return lambda symbols, addresses: [self._call(spec.name, symbols, addresses)]
        weights = self._weights(sequence.weights)

        def make(symbols: Mapping[str, int], addresses: Mapping[str, int]) -> Sequence[Step]:
            return [
                SequenceStep(
                    self._gpu,
                    sequence,
                    symbols,
                    {**weights, **addresses},
                    kernels=self._kernels,
                    make_call=self._call,
                )
            ]

        return make

    @functools.cached_property
    def _sequences(self) -> dict[tuple[str, bool], LaunchSequence]:
        """Graphs as launches, by name and whether v stays on the GPU in fp16."""
        found = {
            (graph, resident): read_sequence(
                self._bundle, self._gpu.target, graph, resident=resident
            )
            for graph in self._bundle.engine_graphs
            for resident in (False, True)
        }
        # Without an engine that it calls, as when the engines were built anew without, a graph's
        # own engine takes its place.
        return {
            key: sequence
            for key, sequence in found.items()
            if sequence is not None
            and all(
                step.engine in self.manifest.plans
                for step in sequence.steps
                if isinstance(step, Call)
            )
        }

    @functools.cached_property
    def _resident_dtype(self) -> np.dtype[Any]:
        """The type of v on the GPU: fp16 where both graphs that share it can have it so."""
        both = {(VIDEO_FINALIZER, True), (GROUNDER, True)} <= self._sequences.keys()
        return np.dtype(np.float16 if both else np.float32)

    def _weights(self, name: str | None) -> dict[str, int]:
        if name is None:
            return {}
        if name not in self._loaded_weights:
            path = self._bundle.file(f"{kernels_folder(self._gpu.target)}/{name}")
            self._loaded_weights[name] = Weights(self._gpu, self._stream, path).addresses
        return self._loaded_weights[name]

    @functools.cached_property
    def _loaded_weights(self) -> dict[str, dict[str, int]]:
        return {}

    def _call(
        self, graph: str, symbols: Mapping[str, int], addresses: Mapping[str, int]
    ) -> EngineStep:
        if graph not in self.manifest.plans:
            raise BundleDamagedError(
                f"no engine {graph} in {self.manifest.folder}; build the engines again"
            )
        if graph not in self._plans:
            content = read_plan(self._bundle, self.manifest, graph)
            self._plans[graph] = Plan(self._trt, self._runtime, self._messages, graph, content)
        plan = self.manifest.plans[graph]
        shapes = {
            tensor.name: shape_of(tensor, symbols)  # type: ignore[arg-type]
            for tensor in (*plan.inputs, *plan.outputs)
        }
        return EngineStep(self._gpu, self._plans[graph], shapes, addresses)


class _Owner:
    """Stands for one allocation: when it is gone, so is the last array over it."""
