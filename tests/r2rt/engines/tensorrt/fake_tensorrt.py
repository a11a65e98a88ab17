"""TensorRT in Python over the stub driver: engines are ONNX graphs, run on the CPU when due.

A plan is a header as TensorRT-RTX writes it and the name of a graph. What an engine computes is
enqueued in the stub's streams, and reads and writes the addresses it was given only then.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import msgspec
import numpy as np

from r2rt.engines.onnx_runtime import OnnxRuntimeEngine
from r2rt.engines.tensorrt.plans import (
    GROUNDER_HEADS,
    EngineManifest,
    Plan,
    PrecisionName,
    Range,
    engine_tensors,
    heads_spec,
    source_graph,
)
from r2rt.model.bundle import Bundle, file_entry
from r2rt.model.contract import GROUNDER, GraphSpec
from r2rt.model.manifest import MANIFEST_NAME, FileEntry, manifest_bytes
from tests.conftest import CHECKOUT
from tests.r2rt.engines.tensorrt.stub_driver import Op, StubDriver, floats_at
from tests.unmerged import unmerged

__all__ = ["RANGES", "VERSION", "FakeRuntime", "bundle_with_engines", "plan_bytes"]

VERSION = "1.7.1.116"
DEMO = CHECKOUT / "demo" / "random-tiny"
RANGES = {
    "B": Range(least=1, usual=4, most=8),
    "T": Range(least=1, usual=16, most=128),
    "N": Range(least=1, usual=1, most=4),
    "L": Range(least=1, usual=16, most=77),
}
_LENT_BYTES = 4096


def plan_bytes(graph: str, *, version: str = VERSION, mask: int = 0) -> bytes:
    body = graph.encode()
    size = 40 + len(body)
    header = struct.pack("<4s12xQ4B4xI", b"vtrt", size, *map(int, version.split(".")), mask)
    return header.ljust(40, b"\0") + body


def bundle_with_engines(
    folder: Path,
    files: Mapping[str, bytes] | None = None,
    *,
    capability: str = "9.0",
    precision: PrecisionName = "fp16",
    heads: bool = False,
) -> Bundle:
    """The demo bundle with an engine for every graph, the heads' where asked, and other files."""
    shutil.copytree(DEMO, folder, dirs_exist_ok=True)
    source = Bundle.open(folder, verify="never")
    written = dict(files or {})
    plans = {}
    specs = dict(source.engine_graphs)
    if heads:
        specs[GROUNDER_HEADS] = heads_spec(source.dims)
    for graph, spec in specs.items():
        content = plan_bytes(graph)
        inputs, outputs = engine_tensors(spec)
        name = f"engines/rtx-{capability}-{precision}/{graph}.plan"
        written[name] = content
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        plans[graph] = Plan(
            file=file_entry(folder / name),
            source_sha256=source.manifest.files[f"{source_graph(graph)}.onnx"].sha256,
            onnx_sha256="0" * 64,
            ranges={s: RANGES[s] for s in _symbols(spec)},
            inputs=inputs,
            outputs=outputs,
            kernels={},
            checks=(),
        )
    manifest = EngineManifest(
        schema=1,
        flavour="rtx",
        version=VERSION,
        target=capability,
        capabilities=(capability,),
        precision=precision,
        plans=plans,
    )
    written[f"{manifest.folder}/engine.json"] = msgspec.json.encode(manifest)
    entries: dict[str, FileEntry] = dict(source.manifest.files)
    for name, content in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        entries[name] = file_entry(folder / name)
    changed = msgspec.structs.replace(source.manifest, files=entries)
    (folder / MANIFEST_NAME).write_bytes(manifest_bytes(changed))
    return Bundle.open(folder)


def _symbols(spec: GraphSpec) -> set[str]:
    return {size for tensor in spec.inputs for size in tensor.shape if isinstance(size, str)}


class RunsGraphs(Protocol):
    """As much of an engine as is needed here."""

    def run(self, graph: str, inputs: Mapping[str, Any], /) -> Mapping[str, Any]: ...


class FakeRuntime:
    """Stands for the module `tensorrt_rtx`.

    Args:
        driver: whose streams and memory are used.
        bundle: whose ONNX graphs the engines are.
        refuse: name of a method that reports failure; `capture` for engines that cannot be
            enqueued in a capture, though they say so nowhere.
        cpu: what runs the graphs, and the heads alone if asked to; opened anew if None.
    """

    __version__ = VERSION
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

    class ILogger:
        ERROR = "error"
        INTERNAL_ERROR = "internal error"

    def __init__(
        self,
        driver: StubDriver,
        bundle: Bundle,
        *,
        refuse: str | None = None,
        cpu: RunsGraphs | None = None,
    ) -> None:
        self.driver = driver
        self.bundle = bundle
        self.refuse = refuse
        self.specs = {**bundle.engine_graphs, GROUNDER_HEADS: heads_spec(bundle.dims)}
        self.cpu = cpu or OnnxRuntimeEngine(bundle, threads=1)
        # ONNX Runtime's grounder takes a bias that engines do not.
        self.unmerged = isinstance(self.cpu, OnnxRuntimeEngine) and self.cpu.merges
        self.engines = self.contexts = 0
        self.executions: list[tuple[str, dict[str, tuple[int, ...]]]] = []
        self.caches_read: list[bytes] = []

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        return SimpleNamespace(
            deserialize_cuda_engine=lambda content: self._deserialize(content, logger)
        )

    def _deserialize(self, content: bytes, logger: Any) -> _Engine | None:
        if self.refuse == "deserialize_cuda_engine":
            logger.log(self.ILogger.ERROR, "Wrong magic tag.\nmore")
            return None
        return _Engine(self, content[40:].decode())


class _Engine:
    def __init__(self, runtime: FakeRuntime, graph: str) -> None:
        self.runtime = runtime
        self.graph = graph
        self.spec = runtime.specs.get(graph)
        assert self.spec is not None
        self._names = [t.name for t in (*self.spec.inputs, *self.spec.outputs)]
        self.num_io_tensors = len(self._names)
        runtime.engines += 1

    def __del__(self) -> None:
        self.runtime.engines -= 1

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> str:
        assert self.spec is not None
        return "input" if name in {tensor.name for tensor in self.spec.inputs} else "output"

    def create_runtime_config(self) -> Any:
        def deserialize(content: bytes) -> None:
            self.runtime.caches_read.append(content)

        cache = SimpleNamespace(deserialize=deserialize, serialize=lambda: b"compiled")
        return SimpleNamespace(
            set_execution_context_allocation_strategy=lambda _: None,
            create_runtime_cache=lambda: cache,
            set_runtime_cache=lambda _: True,
        )

    def create_execution_context(self, config: Any) -> _Context | None:
        assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
        return None if self.runtime.refuse == "create_execution_context" else _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._runtime = engine.runtime
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._lent = 0
        self._runtime.contexts += 1

    def __del__(self) -> None:
        self._runtime.contexts -= 1
        # Destroying a context touches the device, so that must still be there.
        assert not self._lent or "context" in self._runtime.driver.leaks()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return self._runtime.refuse != "set_input_shape"

    def infer_shapes(self) -> list[str]:
        assert self._engine.spec is not None
        symbols = {
            size: found
            for tensor in self._engine.spec.inputs
            for size, found in zip(tensor.shape, self._shapes[tensor.name], strict=True)
            if isinstance(size, str)
        }
        if "T" in symbols:
            strides = self._runtime.bundle.dims.strides
            symbols["M"] = sum(symbols["T"] // stride for stride in strides)
        for tensor in self._engine.spec.outputs:
            self._shapes[tensor.name] = tuple(
                symbols[size] if isinstance(size, str) else size for size in tensor.shape
            )
        return ["x"] if self._runtime.refuse == "infer_shapes" else []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def update_device_memory_size_for_shapes(self) -> int:
        return _LENT_BYTES

    def set_device_memory(self, address: int, nbytes: int) -> None:
        self._runtime.driver._within(address, _LENT_BYTES, "device memory")
        assert nbytes == _LENT_BYTES
        self._lent = address

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 256 == 0 or self._engine.get_tensor_mode(name) == "input"
        self._addresses[name] = address
        return self._runtime.refuse != "set_tensor_address"

    def is_stream_capturable(self, stream: int) -> bool:
        assert not self._runtime.driver.is_capturing(stream)
        return self._runtime.refuse != "is_stream_capturable"

    def execute_async_v3(self, stream: int) -> bool:
        if self._runtime.refuse == "execute_async_v3":
            return False
        if self._runtime.refuse == "capture" and self._runtime.driver.is_capturing(stream):
            return False
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        run = self._execution(shapes, addresses)
        self._runtime.driver.enqueue(stream, Op(self._engine.graph, run))
        return True

    def _execution(
        self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]
    ) -> Callable[[], None]:
        spec, runtime, graph = self._engine.spec, self._runtime, self._engine.graph
        assert spec is not None

        def run() -> None:
            runtime.executions.append((graph, shapes))
            inputs = {
                t.name: floats_at(addresses[t.name], shapes[t.name], np.dtype(t.dtype)).copy()
                for t in spec.inputs
            }
            if graph == GROUNDER and runtime.unmerged:
                inputs |= unmerged(inputs["v"])
            for name, value in runtime.cpu.run(graph, inputs).items():
                floats_at(addresses[name], shapes[name])[:] = value

        return run
