"""ONNX Runtime on the CPU, or on a GPU through one of its providers."""

from __future__ import annotations

import contextlib
import logging
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from r2rt.cache.folder import cache_dir, report_unusable
from r2rt.cache.graphs import PreparedGraph
from r2rt.engines.base import Array, Placed
from r2rt.engines.providers import PROVIDERS, OrtDevice, provider_options, use
from r2rt.engines.resident import DeviceArray
from r2rt.errors import BackendUnavailableError, BundleDamagedError, GpuError, R2rtError
from r2rt.model.contract import GROUNDER, GraphSpec
from r2rt.portable import give_back_freed_memory, usable_cores

if TYPE_CHECKING:
    from r2rt.model.bundle import Bundle

__all__ = ["OnnxRuntimeEngine", "mismatches", "sums_bytes_exactly"]

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
# Operators that are where a graph's time goes. A few nodes that compute shapes belong on the CPU.
# Fused and quantised forms of the same operators are what ONNX Runtime's optimiser makes of them.
_HEAVY = frozenset(
    (
        *("Attention", "BiasGelu", "Conv", "ConvInteger", "DynamicQuantizeMatMul", "Einsum"),
        *("FusedConv", "FusedGemm", "FusedMatMul", "Gelu", "Gemm", "LayerNormalization", "MatMul"),
        *("MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention"),
        *("QAttention", "QGemm", "QLinearConv", "QLinearMatMul", "SkipLayerNormalization"),
        "Softmax",
    )
)
_RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"


class OnnxRuntimeEngine:
    """Runs a bundle's graphs with ONNX Runtime; see `r2rt.engines.base.Engine`."""

    def __init__(
        self, bundle: Bundle, *, device: OrtDevice = "cpu", threads: int | None = None
    ) -> None:
        self._bundle = bundle
        self._device: OrtDevice = device
        self._provider = PROVIDERS[device]
        self._threads = threads or usable_cores()
        self._sessions: dict[str, Any] = {}
        self._opening = threading.Lock()

    @property
    def name(self) -> str:
        """Backend and device."""
        return f"onnxruntime-{self._device}"

    @property
    def frame_batch(self) -> int:
        """Frames that are best encoded at once."""
        return self._provider.frame_batch

    @property
    def concurrent(self) -> bool:
        """Whether threads may run one session at the same time: all providers but DirectML."""
        return self._provider.concurrent

    @property
    def merges(self) -> bool:
        """Whether the bundle's graphs take merged patches."""
        return self._bundle.dims.patch_bias

    def run(
        self,
        graph: str,
        inputs: Mapping[str, Placed],
        outputs: Mapping[str, Placed] | None = None,
    ) -> dict[str, Array]:
        """Run one graph; see `Engine.run`."""
        session = self._session(graph)
        names = [spec.name for spec in self._bundle.graphs[graph].outputs]
        try:
            if not outputs and not any(isinstance(x, DeviceArray) for x in inputs.values()):
                values = session.run(names, dict(inputs))
                return dict(zip(names, cast("list[Array]", values), strict=True))
            return _run_bound(session, names, inputs, outputs or {})
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            # Such as token ids beyond the vocabulary of the graph, or too little memory.
            raise self._refused(graph, "run", error) from error

    @property
    def kept_bytes(self) -> int:
        """64 MiB: four windows of 75 clips of a ViT-B/32."""
        return 64 << 20

    def empty(self, shape: Sequence[int]) -> Placed:
        """Return memory where the graphs run; see `Engine.empty`."""
        if not self._provider.resident:
            return np.empty(shape, np.float32)
        import onnxruntime

        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        try:
            value = make(shape, np.float32, "cuda", 0)
        except Exception as error:  # its own classes, and RuntimeError
            what = f"allocate an array of shape {tuple(shape)} for"
            raise self._refused(GROUNDER, what, error) from error
        return DeviceArray(
            address=value.data_ptr(), shape=tuple(shape), dtype=np.dtype(np.float32), owner=value
        )

    def release(self, graph: str) -> None:
        """Free the session of a graph."""
        self._sessions.pop(graph, None)

    def close(self) -> None:
        """Free every session."""
        self._sessions.clear()

    def open(self, graph: str) -> None:
        """Open a graph now rather than on first use, checking that it fits its definition."""
        self._session(graph)

    def _session(self, graph: str) -> Any:
        session = self._sessions.get(graph)
        if session is not None:
            return session
        with self._opening:  # once, whatever number of threads ask for it first
            session = self._sessions.get(graph)
            if session is None:
                began = time.perf_counter()
                session = self._sessions[graph] = self._open(self._bundle.graphs[graph])
                _log.info("%s opened in %.2f s", graph, time.perf_counter() - began)
            return session

    def _open(self, spec: GraphSpec) -> Any:
        path = self._bundle.file(f"{spec.name}.onnx")
        session = self._open_prepared(path, spec)
        try:
            session = session or self._new_session(path, self._options(), spec)
        except BackendUnavailableError:
            raise
        except Exception as error:
            # ONNX Runtime raises a class a status code, all of them plain subclasses of Exception.
            raise self._refused(spec.name, "open", error) from error
        self._check_provider(session)
        problems = mismatches(session, spec)
        if problems:
            raise BundleDamagedError(
                f"{path}: {'; '.join(problems)}; the graph does not fit the bundle, export it again"
            )
        return session

    def _refused(self, graph: str, what: str, error: Exception) -> R2rtError:
        """Return our error for one of ONNX Runtime, whose classes say little."""
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
        found = f"{self._bundle.path / f'{graph}.onnx'}: ONNX Runtime cannot {what} it ({line}); "
        if self._device == "cpu":
            return BundleDamagedError(
                f"{found}fetch or export the bundle again, or free some memory"
            )
        return GpuError(f"{found}free memory of the device, or use --device cpu")

    def _check_provider(self, session: Any) -> None:
        """Raise if ONNX Runtime fell back to another execution provider than the requested one."""
        name = self._provider.name
        if name not in session.get_providers():
            raise BackendUnavailableError(
                f"ONNX Runtime fell back from {name} to {session.get_providers()}; "
                "check the driver and CUDA libraries, or use --device cpu"
            )
        if self._device == "cpu" or not hasattr(session, "get_provider_graph_assignment_info"):
            return
        left = sorted(
            node.op_type
            for part in session.get_provider_graph_assignment_info()
            if part.ep_name == PROVIDERS["cpu"].name
            for node in part.get_nodes()
            if node.op_type in _HEAVY
        )
        if left:
            raise BackendUnavailableError(
                f"{name} left {len(left)} operators to the CPU ({', '.join(dict.fromkeys(left))}); "
                "use --device cuda or cpu"
            )

    def _open_prepared(self, path: Path, spec: GraphSpec) -> Any | None:
        """Open a large graph in the form kept for this machine, making that form first if need be.

        On the CPU that is the optimised graph, for a provider that can save it the compiled one.
        None where the original is to be opened: small graphs, other providers, no room to keep it.
        """
        import onnxruntime

        entry = self._bundle.manifest.files[path.name]
        if entry.size < _SMALLEST_PREPARED_BYTES:
            return None
        if self._device != "cpu" and not self._provider.context:
            return None
        prepared = PreparedGraph(
            entry.sha256, f"onnxruntime {onnxruntime.__version__}{self._where()}"
        )
        if not prepared.find() and not prepared.put(
            entry.size, lambda to: self._prepare(path, to, spec)
        ):
            return None
        options = self._options()
        if self._device == "cpu":
            level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = level
        try:
            return self._new_session(prepared.path, options, spec)
        except Exception:
            # A crash may have truncated it. The original is used, or reports what is wrong.
            prepared.discard()
            return None

    def _where(self) -> str:
        """Return what a graph compiled for a GPU is tied to, beside ONNX Runtime."""
        if self._device == "cpu":
            return ""
        from r2rt.engines.gpu import find_gpu

        return f" {self._provider.name} {find_gpu()}"

    def _prepare(self, path: Path, destination: Path, spec: GraphSpec) -> None:
        options = self._options()
        if self._device == "cpu":
            options.optimized_model_filepath = str(destination)
            entries: Mapping[str, str] = _SAVE_PREPARED
        else:
            entries = {**self._provider.context, "ep.context_file_path": str(destination)}
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        try:
            self._new_session(path, options, spec)
        except Exception as error:
            raise OSError(f"{destination}: not prepared ({error})") from error
        # It took the weights several times over, which would otherwise stay with the process.
        give_back_freed_memory()

    def _options(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning worker threads would take the cores from the decoder between two batches.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self._device != "cpu":
            options.add_session_config_entry(_RECORD_ASSIGNMENT, "1")
        elif not sums_bytes_exactly():
            options.add_session_config_entry("session.x64quantprecision", "1")
        return options

    def _new_session(self, path: Path, options: Any, spec: GraphSpec) -> Any:
        import onnxruntime

        settings: dict[str, str] = {}
        if self._provider.options:
            settings = provider_options(
                self._provider,
                spec,
                self._compiled(),
                context_length=self._bundle.dims.context_length,
            )
        providers = use(options, self._provider, settings)
        return onnxruntime.InferenceSession(str(path), options, providers=providers)

    def _compiled(self) -> Path | None:
        """Return a folder for what a provider compiles; None if nothing is or can be kept.

        It is the model's own: TensorRT's provider names its engines after values, not weights.
        """
        if not any("{cache}" in setting for setting in self._provider.options.values()):
            return None
        folder = cache_dir() / "engines" / self._bundle.fingerprint
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            report_unusable(error)
            return None
        return folder


def _run_bound(
    session: Any, names: list[str], inputs: Mapping[str, Placed], outputs: Mapping[str, Placed]
) -> dict[str, Array]:
    """Run a session whose arrays are where the caller wants them."""
    import onnxruntime

    binding = session.io_binding()
    for name, array in inputs.items():
        if isinstance(array, DeviceArray):
            binding.bind_input(name, "cuda", 0, array.dtype.type, array.shape, array.address)
        else:
            binding.bind_cpu_input(name, array)
    for name in names:
        place = outputs.get(name)
        if isinstance(place, DeviceArray):
            binding.bind_output(name, "cuda", 0, place.dtype.type, place.shape, place.address)
        elif place is not None:
            # Wraps the caller's memory; nothing is copied on the CPU.
            value = onnxruntime.OrtValue.ortvalue_from_numpy(place)
            binding.bind_ortvalue_output(name, value)
        else:
            binding.bind_output(name)
    session.run_with_iobinding(binding)
    found = binding.get_outputs() if len(outputs) < len(names) else ()
    results: dict[str, Array] = {}
    for index, name in enumerate(names):
        place = outputs.get(name)
        if place is None:
            results[name] = found[index].numpy()
        elif not isinstance(place, DeviceArray):
            results[name] = place
    return results


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


def sums_bytes_exactly(flags: str | None = None) -> bool:
    """Return whether products of bytes are summed in 32 bits on this processor.

    x86 without VNNI or AMX sums two of them in 16 bits, which saturate. A processor that does not
    say what it has is taken for one that has none of it.

    Args:
        flags: the processor's features, by default those that the system reports.
    """
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return True
    if flags is None:
        flags = ""
        with contextlib.suppress(OSError):
            flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return any(feature in flags for feature in ("vnni", "amx_int8"))
