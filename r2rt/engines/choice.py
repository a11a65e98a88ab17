"""Which backend runs: the fastest that is there, or the one asked for, or an error that helps.

Nothing of a GPU is imported before its driver was found, and on a machine without one never.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from r2rt.errors import BackendUnavailableError, QueryError

if TYPE_CHECKING:
    from r2rt.engines.base import Engine
    from r2rt.engines.gpu import GpuInfo
    from r2rt.model.bundle import Bundle

__all__ = ["DEVICES", "Choice", "Device", "choose", "obstacles", "open_engine"]

Device = Literal["auto", "cpu", "cuda", "tensorrt", "rtx"]
DEVICES: tuple[Device, ...] = get_args(Device)
_Used = Literal["cpu", "cuda", "tensorrt", "rtx"]
_Backend = Literal["onnxruntime", "tensorrt"]

# Every way to use a GPU, the fastest first.
_WAYS: tuple[tuple[_Used, _Backend], ...] = (
    ("tensorrt", "tensorrt"),
    ("rtx", "tensorrt"),
    ("cuda", "onnxruntime"),
    ("rtx", "onnxruntime"),
    ("tensorrt", "onnxruntime"),
)
# TensorRT-RTX is made for consumer GPUs: data-centre ones of these generations are left out.
_NOT_RTX = (9, 10)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A chosen backend and why it was chosen.

    Attributes:
        device: `cpu`, or the way a GPU is used: `cuda`, `tensorrt` or `rtx` (TensorRT-RTX).
        backend: what runs there: `onnxruntime`, or `tensorrt` for engines run directly.
        reason: one clause for a person.
    """

    device: _Used
    backend: str
    reason: str


def choose(device: Device = "auto", bundle: Bundle | None = None) -> Choice:
    """Choose the backend for `device`.

    Args:
        device: what to run on.
        bundle: the bundle to run, whose engines decide what can be used; None leaves them out.

    Raises:
        BackendUnavailableError: the device was asked for by name and cannot be used.
        QueryError: there is no such device.
    """
    if device not in DEVICES:
        raise QueryError(f"no device {device!r}; expected one of {', '.join(DEVICES)}")
    if device == "cpu":
        return Choice(device="cpu", backend="onnxruntime", reason="asked for")
    from r2rt.engines.gpu import find_gpu

    try:
        gpu = find_gpu()
    except BackendUnavailableError as error:
        if device == "auto":
            return Choice(device="cpu", backend="onnxruntime", reason=f"no GPU: {error}")
        raise BackendUnavailableError(f"device {device} cannot be used: {error}") from None
    ways = [way for way in _WAYS if device in ("auto", way[0])]
    missing = []
    for used, backend in ways:
        problem = _problem(used, backend, gpu, bundle)
        if problem is None:
            reason = f"an NVIDIA GPU is there: {gpu.name}" if device == "auto" else "asked for"
            return Choice(device=used, backend=backend, reason=reason)
        missing.append(f"{_title(used, backend)}: {problem}")
    if device == "auto":
        # The way that takes every bundle, ONNX Runtime's CUDA provider, is explained.
        plainest = next(line for line in missing if line.startswith(_title("cuda", "onnxruntime")))
        reason = f"{gpu.name} cannot be used: {plainest}"
        return Choice(device="cpu", backend="onnxruntime", reason=reason)
    raise BackendUnavailableError(f"device {device} cannot be used: {'; '.join(missing)}")


def obstacles(bundle: Bundle | None = None) -> dict[str, str]:
    """Return every way to use a GPU and what it lacks, empty where it lacks nothing.

    Args:
        bundle: the bundle to run, whose engines count as well.
    """
    from r2rt.engines.gpu import find_gpu

    try:
        gpu = find_gpu()
    except BackendUnavailableError as error:
        return {_title(*way): str(error) for way in _WAYS}
    return {_title(*way): _problem(*way, gpu, bundle) or "" for way in _WAYS}


def open_engine(
    bundle: Bundle, device: Device = "auto", *, threads: int | None = None
) -> tuple[Engine, Choice]:
    """Open the engine that `choose` names for this bundle; graphs are opened on first use.

    Args:
        bundle: the bundle whose graphs are run.
        device: what to run on.
        threads: processor threads an operator may use; None takes every core this process may use.
    """
    choice = choose(device, bundle)
    if choice.backend == "tensorrt":
        from r2rt.engines.tensorrt.engine import TensorRTEngine

        return TensorRTEngine(bundle, "rtx" if choice.device == "rtx" else "tensorrt"), choice
    from r2rt.engines.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle, device=choice.device, threads=threads), choice


def _title(used: _Used, backend: _Backend) -> str:
    name = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX", "cuda": "CUDA", "cpu": "CPU"}[used]
    return name if backend == "tensorrt" else f"{name} by ONNX Runtime"


def _problem(used: _Used, backend: _Backend, gpu: GpuInfo, bundle: Bundle | None) -> str | None:
    """Return what stands in the way, and what to do about it; None if nothing does."""
    if used == "rtx" and gpu.capability[0] in _NOT_RTX:
        version = "{}.{}".format(*gpu.capability)
        return f"it does not serve compute capability {version}; use --device tensorrt or cuda"
    if backend == "tensorrt":
        return _engine_problem("rtx" if used == "rtx" else "tensorrt", gpu, bundle)
    if bundle is not None and bundle.manifest.precision == "int8":
        # Its CUDA provider has no kernel for MatMulIntegerToFloat, and would copy every
        # activation to the CPU and back.
        return "ONNX Runtime runs int8 products on the CPU; use the fp32 bundle or an engine"
    if used == "rtx":
        return _plugin_problem()
    import onnxruntime

    from r2rt.engines.providers import INSTALL_CUDA, PROVIDERS, load_problem

    name = PROVIDERS[used].name
    if name not in onnxruntime.get_available_providers():
        return f"this onnxruntime has no {name}; {INSTALL_CUDA}"
    if used == "tensorrt" and not _has_tensorrt_10():
        return "libnvinfer.so.10 is missing; pip install 'tensorrt-cu13<11', or use --device cuda"
    problem = load_problem(used)
    return problem and f"{problem}; {INSTALL_CUDA}"


def _has_tensorrt_10() -> bool:
    """Return whether the library that ONNX Runtime's TensorRT provider links to can be loaded.

    The package `tensorrt` loads its own libraries from where pip puts them, after which they are
    found by name.
    """
    with contextlib.suppress(BackendUnavailableError):
        from r2rt.engines.tensorrt.engine import import_runtime

        import_runtime("tensorrt")
    library = "nvinfer_10.dll" if sys.platform == "win32" else "libnvinfer.so.10"
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _engine_problem(
    flavour: Literal["tensorrt", "rtx"], gpu: GpuInfo, bundle: Bundle | None
) -> str | None:
    import importlib.util

    from r2rt.engines.tensorrt.engine import import_runtime
    from r2rt.engines.tensorrt.plans import find_engine

    if (
        importlib.util.find_spec("cuda") is None
        or importlib.util.find_spec("cuda.bindings") is None
    ):
        return f"the package cuda-bindings is missing; pip install 'r2rt[{flavour}]'"
    try:
        version = str(import_runtime(flavour).__version__)
        if bundle is not None:
            capability = "{}.{}".format(*gpu.capability)
            find_engine(bundle, flavour=flavour, version=version, capability=capability)
    except BackendUnavailableError as error:
        return str(error)
    return None


def _plugin_problem() -> str | None:
    import importlib.util

    import onnxruntime

    from r2rt.engines.providers import PROVIDERS

    plugin = PROVIDERS["rtx"].plugin
    assert plugin is not None
    if importlib.util.find_spec(plugin) is None:
        return "its provider is missing; pip install onnxruntime-ep-nv-tensorrt-rtx-cu13"
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return f"onnxruntime {onnxruntime.__version__} takes no plugins; pip install -U onnxruntime"
    return None
