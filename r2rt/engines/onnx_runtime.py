"""ONNX Runtime on the CPU or through its CUDA provider."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from r2rt.cache.graphs import PreparedGraph
from r2rt.contract import GraphSpec
from r2rt.engines.base import Array
from r2rt.errors import BackendUnavailableError, BundleDamagedError

if TYPE_CHECKING:
    from r2rt.bundle import Bundle

__all__ = ["OnnxRuntimeEngine", "mismatches"]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
}
_log = logging.getLogger(__name__)

# Below this a graph opens in milliseconds as it is.
_SMALLEST_PREPARED_BYTES = 16 << 20
_SAVE_PREPARED = {
    "session.optimized_model_external_initializers_file_name": "weights.bin",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    "session.save_external_prepacked_constant_initializers": "1",
}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeEngine:
    """Runs a bundle's graphs with ONNX Runtime; see `r2rt.engines.base.Engine`."""

    def __init__(
        self, bundle: Bundle, *, device: Literal["cpu", "cuda"] = "cpu", threads: int | None = None
    ) -> None:
        self._bundle = bundle
        self._device: Literal["cpu", "cuda"] = device
        self._threads = threads or usable_cores()
        self._sessions: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """Backend and device."""
        return f"onnxruntime-{self._device}"

    @property
    def frame_batch(self) -> int:
        """Frames that are best encoded at once: enough to fill the cores, few enough for caches."""
        return 8 if self._device == "cpu" else 32

    def run(
        self,
        graph: str,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """Run one graph; see `Engine.run`."""
        session = self._session(graph)
        names = [spec.name for spec in self._bundle.graphs[graph].outputs]
        if not outputs:
            values = session.run(names, dict(inputs))
            return dict(zip(names, cast("list[Array]", values), strict=True))
        import onnxruntime

        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name in names:
            if name in outputs:
                # Wraps the caller's memory; nothing is copied on the CPU.
                value = onnxruntime.OrtValue.ortvalue_from_numpy(outputs[name])
                binding.bind_ortvalue_output(name, value)
            else:
                binding.bind_output(name)
        session.run_with_iobinding(binding)
        values = binding.copy_outputs_to_cpu() if len(outputs) < len(names) else None
        return {
            name: outputs[name] if name in outputs else cast("list[Array]", values)[index]
            for index, name in enumerate(names)
        }

    def release(self, graph: str) -> None:
        """Free the session of a graph."""
        self._sessions.pop(graph, None)

    def open(self, graph: str) -> None:
        """Open a graph now rather than on first use, checking that it fits its definition."""
        self._session(graph)

    def _session(self, graph: str) -> Any:
        session = self._sessions.get(graph)
        if session is None:
            began = time.perf_counter()
            session = self._sessions[graph] = self._open(self._bundle.graphs[graph])
            _log.info("%s opened in %.2f s", graph, time.perf_counter() - began)
        return session

    def _open(self, spec: GraphSpec) -> Any:
        path = self._bundle.file(f"{spec.name}.onnx")
        session = self._open_prepared(path)
        try:
            session = session or self._new_session(path, self._options())
        except Exception as error:
            # ONNX Runtime raises a class a status code, all of them plain subclasses of Exception.
            line = str(error).strip().splitlines()[0]
            raise BundleDamagedError(
                f"{path}: ONNX Runtime cannot open it ({line}); fetch or export the bundle again"
            ) from error
        provider = _PROVIDERS[self._device]
        if provider not in session.get_providers():
            raise BackendUnavailableError(
                f"ONNX Runtime fell back from {provider} to {session.get_providers()}; "
                "check the driver and CUDA libraries, or use --device cpu"
            )
        problems = mismatches(session, spec)
        if problems:
            raise BundleDamagedError(
                f"{path}: {'; '.join(problems)}; the graph does not fit the bundle, export it again"
            )
        return session

    def _open_prepared(self, path: Path) -> Any | None:
        """Open a large graph in the form kept for this machine, making that form first if need be.

        None where the original is to be opened: small graphs, other devices, no room to keep it.
        """
        import onnxruntime

        entry = self._bundle.manifest.files[path.name]
        if self._device != "cpu" or entry.size < _SMALLEST_PREPARED_BYTES:
            return None
        prepared = PreparedGraph(entry.sha256, f"onnxruntime {onnxruntime.__version__}")
        if not prepared.find() and not prepared.put(lambda to: self._prepare(path, to)):
            return None
        options = self._options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return self._new_session(prepared.path, options)
        except Exception:
            # It may be torn by a crash; the original is not, and tells what is wrong if it is.
            prepared.discard()
            return None

    def _prepare(self, path: Path, destination: Path) -> None:
        options = self._options()
        options.optimized_model_filepath = str(destination)
        for key, value in _SAVE_PREPARED.items():
            options.add_session_config_entry(key, value)
        try:
            self._new_session(path, options)
        except Exception as error:
            raise OSError(f"{destination}: not prepared ({error})") from error
        _return_freed_memory()

    def _options(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning worker threads would take the cores from the decoder between two batches.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not _sums_bytes_exactly():
            # Slower kernels that widen the bytes first; int8 weights keep all of their 8 bits.
            options.add_session_config_entry("session.x64quantprecision", "1")
        return options

    def _new_session(self, path: Path, options: Any) -> Any:
        import onnxruntime

        return onnxruntime.InferenceSession(
            str(path), options, providers=[_PROVIDERS[self._device]]
        )


def mismatches(session: Any, spec: GraphSpec) -> list[str]:
    """Return how an opened session's inputs and outputs differ from their definition."""
    problems = []
    for kind, got, want in (
        ("input", session.get_inputs(), spec.inputs),
        ("output", session.get_outputs(), spec.outputs),
    ):
        found = {tensor.name: tensor for tensor in got}
        expected = {tensor.name for tensor in want}
        problems += [f"unexpected {kind} {name}" for name in found if name not in expected]
        for tensor in want:
            if tensor.name not in found:
                problems.append(f"no {kind} {tensor.name}")
                continue
            dtype = _DTYPES.get(found[tensor.name].type, found[tensor.name].type)
            shape = found[tensor.name].shape
            fits = len(shape) == len(tensor.shape) and all(
                not isinstance(size, int) if isinstance(symbol, str) else size == symbol
                for size, symbol in zip(shape, tensor.shape, strict=True)
            )
            if dtype != tensor.dtype or not fits:
                problems.append(
                    f"{kind} {tensor.name} is {dtype} {shape}, "
                    f"expected {tensor.dtype} {list(tensor.shape)}"
                )
    return problems


def _sums_bytes_exactly(flags: str | None = None) -> bool:
    """Return whether products of bytes are summed in 32 bits on this processor.

    x86 without VNNI or AMX sums two of them in 16 bits, which saturate. A processor that does not
    say what it has is taken for one that has none of it.

    Args:
        flags: the processor's features, by default those that the system tells.
    """
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return True
    if flags is None:
        flags = ""
        with contextlib.suppress(OSError):
            flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return any(feature in flags for feature in ("vnni", "amx_int8"))


def _return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library can be asked to.

    Preparing a graph takes its weights several times over, which would otherwise stay with the
    process.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def usable_cores() -> int:
    """Return how many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
