"""TensorRT's runtime: engines as they are opened, and their execution at fixed shapes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from r2rt.engines.tensorrt.cuda import Gpu
from r2rt.engines.tensorrt.plans import FlavourName
from r2rt.errors import BackendUnavailableError, GpuError
from r2rt.files import replacing

if TYPE_CHECKING:
    from r2rt.engines.tensorrt.cuda import DeviceMemory, Stream

__all__ = ["MODULES", "EngineStep", "Plan", "import_runtime", "message_log"]

MODULES: dict[FlavourName, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""The modules of the two runtimes."""
_log = logging.getLogger(__name__)


def import_runtime(flavour: FlavourName) -> Any:
    """Import TensorRT or TensorRT-RTX.

    Raises:
        BackendUnavailableError: it is not installed or does not load; says how to install it.
    """
    import importlib

    name = MODULES[flavour]
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        line = str(error).strip().splitlines()[0]
        raise BackendUnavailableError(
            f"{name} cannot be imported ({line}); pip install 'r2rt[{flavour}]'"
        ) from error


class Plan:
    """A deserialised engine, and what the runtime compiled for it on this GPU."""

    def __init__(self, trt: Any, runtime: Any, messages: Any, graph: str, content: bytes) -> None:
        from r2rt.cache import cache_dir

        self.trt = trt
        self.graph = graph
        self.messages = messages
        self.engine = runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise BackendUnavailableError(
                f"{graph}: the engine cannot be opened ({messages.last()}); build it again on this "
                "machine: python export/to_trt.py BUNDLE"
            )
        # TensorRT-RTX compiles its last part on the GPU where it runs; kept, it is done once.
        self._cache: Any = None
        key = hashlib.sha256(content + str(trt.__version__).encode()).hexdigest()[:40]
        self._cache_path = cache_dir() / "engines" / f"{key}.cache"

    def context(self) -> Any:
        """Return a new execution context whose memory is to be lent to it."""
        strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(self.trt, "DynamicShapesKernelSpecializationStrategy"):
            return self.engine.create_execution_context(strategy)
        config = self.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        # Kernels that are replaced by better ones later would be captured as they are now.
        kinds = self.trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            with suppress(OSError):
                self._cache.deserialize(self._cache_path.read_bytes())
        config.set_runtime_cache(self._cache)
        return self.engine.create_execution_context(config)

    def keep_cache(self) -> None:
        """Write what was compiled, where it can be."""
        if self._cache is None:
            return
        with suppress(OSError):
            self._cache_path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._cache_path) as temporary:
                temporary.write_bytes(bytes(self._cache.serialize()))


class EngineStep:
    """An engine at fixed shapes and addresses; see `r2rt.engines.tensorrt.program.Step`."""

    def __init__(
        self,
        gpu: Gpu,
        plan: Plan,
        shapes: Mapping[str, tuple[int, ...]],
        addresses: Mapping[str, int],
    ) -> None:
        self._plan = plan
        self._scratch: DeviceMemory | None = None
        self._context: Any = plan.context()
        if self._context is None:
            raise self._error("no execution context")
        try:
            self._bind(gpu, shapes, addresses)
        except BaseException:
            self.close()
            raise

    def enqueue(self, stream: Stream) -> None:
        """Enqueue one execution."""
        if not self._context.execute_async_v3(stream.address):
            raise self._error("it cannot be enqueued")

    def can_be_captured(self, stream: Stream) -> bool:
        """Return what the context says; not every runtime can be asked."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(stream.address))

    def close(self) -> None:
        """Give up the context, then the memory that it was lent."""
        self._context = None
        if self._scratch is not None:
            self._scratch.close()

    def _bind(
        self, gpu: Gpu, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]
    ) -> None:
        # No variable for the context: the traceback of an error would keep it beyond the GPU.
        engine, kind = self._plan.engine, self._plan.trt.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        for name in names:
            is_input = engine.get_tensor_mode(name) == kind.INPUT
            if is_input and not self._context.set_input_shape(name, shapes[name]):
                raise self._error(f"{name} cannot be {shapes[name]}")
        unknown = self._context.infer_shapes()
        if unknown:
            raise self._error(f"{', '.join(unknown)} have no shape")
        for name in names:
            found = tuple(self._context.get_tensor_shape(name))
            if found != shapes[name]:
                raise self._error(f"{name} would be {found}, expected {shapes[name]}")
        nbytes = self._context.update_device_memory_size_for_shapes()
        self._scratch = gpu.alloc(nbytes)
        self._context.set_device_memory(self._scratch.address, nbytes)
        for name in names:
            if not self._context.set_tensor_address(name, addresses[name]):
                raise self._error(f"{name} cannot be at {addresses[name]:#x}")

    def _error(self, what: str) -> GpuError:
        return GpuError(f"engine {self._plan.graph}: {what} ({self._plan.messages.last()})")


def message_log(trt: Any) -> Any:
    """Return a logger for the runtime that keeps the last error."""

    class Messages(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._last = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self._last = message.strip().splitlines()[0]
                _log.info("%s", message)

        def last(self) -> str:
            return self._last

    return Messages()
