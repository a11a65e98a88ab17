"""Which backend runs: the fastest that is there, or the one asked for, or an error that helps.

Nothing of a GPU is imported before its driver was found, and on a machine without one never.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from r2rt.errors import BackendUnavailableError, BundleDamagedError, QueryError

if TYPE_CHECKING:
    from r2rt.engines.base import Engine
    from r2rt.engines.gpu import GpuInfo
    from r2rt.engines.tensorrt.plans import FlavourName
    from r2rt.model.bundle import Bundle

__all__ = ["DEVICES", "Choice", "Device", "choose", "obstacles", "open_engine"]

Device = Literal[
    "auto", "cpu", "cuda", "tensorrt", "rtx", "openvino", "webgpu", "coreml", "directml"
]
DEVICES: tuple[Device, ...] = get_args(Device)
_Used = Literal["cpu", "cuda", "tensorrt", "rtx", "openvino", "webgpu", "coreml", "directml"]
_Backend = Literal["onnxruntime", "tensorrt"]
_Way = tuple[_Used, _Backend]

# Every way to use an NVIDIA GPU, the fastest first, and every way to use other hardware.
_NVIDIA: tuple[_Way, ...] = (
    ("tensorrt", "tensorrt"),
    ("rtx", "tensorrt"),
    ("cuda", "onnxruntime"),
    ("rtx", "onnxruntime"),
    ("tensorrt", "onnxruntime"),
)
_OTHERS: tuple[_Way, ...] = (
    ("openvino", "onnxruntime"),
    ("coreml", "onnxruntime"),
    ("directml", "onnxruntime"),
    ("webgpu", "onnxruntime"),
)
# TensorRT-RTX is made for consumer GPUs: data-centre ones of these generations are left out.
_NOT_RTX = (9, 10)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A chosen backend and why it was chosen.

    Attributes:
        device: `cpu`, or a row of `r2rt.engines.providers`.
        backend: what runs there: `onnxruntime`, or `tensorrt` for engines run directly.
        reason: one clause for a person.
    """

    device: _Used
    backend: str
    reason: str


def choose(
    device: Device = "auto",
    bundle: Bundle | None = None,
    *,
    threads: int | None = None,
    measure_again: bool = False,
) -> Choice:
    """Choose the backend for `device`.

    `auto` measures: where anything beside the CPU can be used, each of them and the CPU encode
    some frames and answer queries, once a machine and bundle (`r2rt.engines.measuring`). The
    fastest whose numbers are those of the CPU is chosen, and remembered.

    Args:
        device: what to run on.
        bundle: the bundle to run; without one nothing is measured, and the first usable way of a
            fixed order is named.
        threads: processor threads an operator may use; None takes every usable core.
        measure_again: measure even if this machine and bundle were measured before.

    Raises:
        BackendUnavailableError: the device was asked for by name and cannot be used.
        QueryError: there is no such device.
    """
    if device not in DEVICES:
        raise QueryError(f"no device {device!r}; expected one of {', '.join(DEVICES)}")
    if device == "cpu":
        return Choice(device="cpu", backend="onnxruntime", reason="asked for")
    problems = _problems(device, bundle)
    usable = [way for way, problem in problems.items() if problem is None]
    if device != "auto":
        if usable:
            return Choice(device=usable[0][0], backend=usable[0][1], reason="asked for")
        if len(set(problems.values())) == 1:
            missing = str(next(iter(problems.values())))
        else:
            missing = "; ".join(f"{_title(*way)}: {why}" for way, why in problems.items())
        raise BackendUnavailableError(f"device {device} cannot be used: {missing}")
    if not usable:
        return Choice(device="cpu", backend="onnxruntime", reason=_why_cpu(problems))
    if bundle is None:
        return Choice(device=usable[0][0], backend=usable[0][1], reason="usable; not measured")
    from r2rt.engines.measuring import fastest

    return fastest(bundle, usable, threads=threads, again=measure_again)


def obstacles(bundle: Bundle | None = None) -> dict[str, str]:
    """Return every way to run elsewhere than on the CPU and what it lacks, empty for nothing.

    Args:
        bundle: the bundle to run, whose engines count as well.
    """
    return {_title(*way): problem or "" for way, problem in _problems("auto", bundle).items()}


def open_engine(
    bundle: Bundle, device: Device = "auto", *, threads: int | None = None
) -> tuple[Engine, Choice]:
    """Open the engine that `choose` names for this bundle; graphs are opened on first use.

    Prebuilt engines take so many clips at once. With `auto` the CPU grounds a video of more.

    Args:
        bundle: the bundle whose graphs are run.
        device: what to run on.
        threads: processor threads an operator may use; None takes every core this process may use.
    """
    choice = choose(device, bundle, threads=threads)
    beyond = None
    if device == "auto" and choice.backend == "tensorrt":
        beyond = open_way(bundle, "cpu", "onnxruntime", threads=threads)
    engine = open_way(bundle, choice.device, choice.backend, threads=threads, beyond=beyond)
    return engine, choice


def open_way(
    bundle: Bundle,
    device: _Used,
    backend: str,
    *,
    threads: int | None = None,
    beyond: Engine | None = None,
) -> Engine:
    """Open the engine of a device and backend, as `Choice` names them.

    Args:
        bundle: the bundle whose graphs are run.
        device: as `Choice` has it.
        backend: as `Choice` has it.
        threads: processor threads an operator may use.
        beyond: what takes videos of more clips than a prebuilt engine does; they are refused if
            None.
    """
    if backend == "tensorrt":
        from r2rt.engines.tensorrt.engine import TensorRTEngine

        return TensorRTEngine(bundle, "rtx" if device == "rtx" else "tensorrt", beyond=beyond)
    from r2rt.engines.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle, device=device, threads=threads)


def _problems(device: Device, bundle: Bundle | None) -> dict[_Way, str | None]:
    """Return for each way to use a device why it cannot be used; None if it can."""
    nvidia = [way for way in _NVIDIA if device in ("auto", way[0])]
    problems: dict[_Way, str | None] = {}
    if nvidia:
        from r2rt.engines.gpu import find_gpu

        try:
            gpu = find_gpu()
        except BackendUnavailableError as error:
            problems = dict.fromkeys(nvidia, str(error))
        else:
            problems = {way: _problem(*way, gpu, bundle) for way in nvidia}
    others = [way for way in _OTHERS if device in ("auto", way[0])]
    return problems | {way: _provider_problem(way[0]) for way in others}


def _no_gpu(problems: dict[_Way, str | None]) -> str | None:
    """Return the reason that all ways to use an NVIDIA GPU share; None if they differ."""
    found = {problems[way] for way in _NVIDIA if way in problems}
    return found.pop() if len(found) == 1 else None


def _why_cpu(problems: dict[_Way, str | None]) -> str:
    shared = _no_gpu(problems)
    if shared is not None:
        return f"no GPU: {shared}"
    # The way that takes every bundle, ONNX Runtime's CUDA provider, is explained.
    return f"the GPU cannot be used: {_title('cuda', 'onnxruntime')}: " + str(
        problems["cuda", "onnxruntime"]
    )


def _title(used: _Used, backend: _Backend) -> str:
    if backend == "tensorrt":
        return "TensorRT-RTX" if used == "rtx" else "TensorRT"
    from r2rt.engines.providers import PROVIDERS

    return PROVIDERS[used].name


def _problem(used: _Used, backend: _Backend, gpu: GpuInfo, bundle: Bundle | None) -> str | None:
    """Return why it cannot be used, and what to do about it; None if it can."""
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
        return _provider_problem(used)
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
        from r2rt.engines.tensorrt.execution import import_runtime

        import_runtime("tensorrt")
    library = "nvinfer_10.dll" if sys.platform == "win32" else "libnvinfer.so.10"
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _engine_problem(flavour: FlavourName, gpu: GpuInfo, bundle: Bundle | None) -> str | None:
    import importlib.util

    from r2rt.engines.tensorrt.execution import import_runtime
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
    except (BackendUnavailableError, BundleDamagedError) as error:
        return str(error)
    return None


def _provider_problem(device: _Used) -> str | None:
    """Return why a provider that is a plugin or part of another build cannot be used."""
    import importlib.util

    from r2rt.engines.providers import PROVIDERS, plugin_devices

    provider = PROVIDERS[device]
    if provider.plugin is not None and importlib.util.find_spec(provider.plugin) is None:
        return f"its provider is missing; pip install {provider.package}"
    import onnxruntime

    if provider.plugin is None:
        if provider.name in onnxruntime.get_available_providers():
            return None
        return f"this onnxruntime has no {provider.name}; it comes with {provider.package}"
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return f"onnxruntime {onnxruntime.__version__} takes no plugins; pip install -U onnxruntime"
    try:
        plugin_devices(provider)
    except BackendUnavailableError as error:
        return str(error)
    return None
