"""ONNX Runtime's execution providers as r2rt uses them: one row each, and what makes one usable.

| device     | provider                       | package                                          |
|------------|--------------------------------|--------------------------------------------------|
| `cpu`      | CPUExecutionProvider           | onnxruntime                                      |
| `cuda`     | CUDAExecutionProvider          | onnxruntime-gpu                                  |
| `tensorrt` | TensorrtExecutionProvider      | onnxruntime-gpu, TensorRT 10's libraries         |
| `rtx`      | NvTensorRTRTXExecutionProvider | onnxruntime, onnxruntime-ep-nv-tensorrt-rtx-cu13 |
| `openvino` | OpenVINOExecutionProvider      | onnxruntime, onnxruntime-ep-openvino             |
| `webgpu`   | WebGpuExecutionProvider        | onnxruntime, onnxruntime-ep-webgpu               |
| `coreml`   | CoreMLExecutionProvider        | onnxruntime for macOS                            |
| `directml` | DmlExecutionProvider           | onnxruntime-directml, in place of onnxruntime    |

`onnxruntime` and `onnxruntime-gpu` are the same module: installed together, the files of one
replace those of the other, so the CPU package is uninstalled first (`INSTALL_CUDA`).
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from r2rt.errors import BackendUnavailableError
from r2rt.model.contract import GraphSpec

__all__ = [
    "INSTALL_CUDA",
    "PROVIDERS",
    "OrtDevice",
    "Provider",
    "load_problem",
    "plugin_devices",
    "provider_options",
    "register_plugin",
    "use",
]

INSTALL_CUDA = "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"

OrtDevice = Literal["cpu", "cuda", "tensorrt", "rtx", "openvino", "webgpu", "coreml", "directml"]


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One row of the table.

    Attributes:
        name: of the execution provider.
        frame_batch: frames that `video_encoder` is best given at once.
        options: its settings, where `{cache}` is a folder for what it compiles.
        profile: prefix of its settings for the range of shapes that one engine takes.
        others: providers behind it, for what it cannot run itself; all on the same device.
        plugin: module that brings it, where ONNX Runtime itself does not.
        package: what to install for it.
        resident: whether arrays can be kept on its device between two graphs.
        context: settings of a session that saves a compiled graph; see `ep.context_enable`.
        concurrent: whether threads may run one session at the same time.
    """

    name: str
    frame_batch: int = 32
    options: Mapping[str, str] = field(default_factory=dict)
    profile: str | None = None
    others: tuple[str, ...] = ()
    plugin: str | None = None
    package: str = "onnxruntime"
    resident: bool = True
    context: Mapping[str, str] = field(default_factory=dict)
    concurrent: bool = True


_CONTEXT = {"ep.context_enable": "1", "ep.context_embed_mode": "1"}

PROVIDERS: dict[OrtDevice, Provider] = {
    # Few enough frames for the caches, enough to fill the cores.
    "cpu": Provider(name="CPUExecutionProvider", frame_batch=8, resident=False),
    "cuda": Provider(
        name="CUDAExecutionProvider",
        # TF32 would keep 10 bits of a product's operands.
        options={"arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"},
    ),
    "tensorrt": Provider(
        name="TensorrtExecutionProvider",
        options={
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": "{cache}",
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": "{cache}",
        },
        profile="trt_profile",
        others=("CUDAExecutionProvider",),
    ),
    "rtx": Provider(
        name="NvTensorRTRTXExecutionProvider",
        options={"nv_runtime_cache_path": "{cache}"},
        profile="nv_profile",
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
        package="onnxruntime-ep-nv-tensorrt-rtx-cu13",
        resident=False,
        context=_CONTEXT,
    ),
    "openvino": Provider(
        name="OpenVINOExecutionProvider",
        frame_batch=8,
        plugin="onnxruntime_ep_openvino",
        package="onnxruntime-ep-openvino",
        resident=False,
    ),
    "webgpu": Provider(
        name="WebGpuExecutionProvider",
        frame_batch=8,
        plugin="onnxruntime_ep_webgpu",
        package="onnxruntime-ep-webgpu",
        resident=False,
    ),
    "coreml": Provider(
        name="CoreMLExecutionProvider",
        frame_batch=8,
        options={"ModelFormat": "MLProgram"},
        resident=False,
    ),
    "directml": Provider(
        name="DmlExecutionProvider",
        package="onnxruntime-directml in place of onnxruntime",
        resident=False,
        concurrent=False,  # ONNX Runtime's manual forbids it
    ),
}

# Sizes that an engine is compiled for: least, usual, most. Beyond them it may refuse to run.
_RANGES = {
    "B": (1, 32, 32),
    "T": (1, 75, 1024),
    "N": (1, 1, 16),
    "L": (1, 16, 77),
    "P": (2, 50, 1025),
}
_registered = threading.Lock()
_plugins: set[str] = set()


def provider_options(
    provider: Provider, spec: GraphSpec, cache: Path | None, *, context_length: int
) -> dict[str, str]:
    """Return a provider's settings for a graph.

    Args:
        provider: a row of the table.
        spec: the graph's definition, whose dynamic dimensions get a range of sizes.
        cache: folder for compiled engines; with None they are not kept.
        context_length: the most tokens of a query that the graphs take.
    """
    options = {
        key: value.format(cache=cache)
        for key, value in provider.options.items()
        if cache is not None or "cache" not in key
    }
    if provider.profile is None:
        return options
    # An engine is compiled for the largest sizes as well, which the graph must take.
    ranges = {**_RANGES, "L": tuple(min(size, context_length) for size in _RANGES["L"])}
    for place, kind in enumerate(("min", "opt", "max")):
        shapes = []
        for tensor in spec.inputs:
            sizes = [ranges[x][place] if isinstance(x, str) else x for x in tensor.shape]
            shapes.append(f"{tensor.name}:{'x'.join(map(str, sizes))}")
        options[f"{provider.profile}_{kind}_shapes"] = ",".join(shapes)
    return options


def use(
    options: Any, provider: Provider, settings: Mapping[str, str]
) -> list[tuple[str, dict[str, str]]] | None:
    """Choose a provider for a session.

    Args:
        options: the session's `SessionOptions`, to which the devices of a plugin are added.
        provider: the provider.
        settings: its own settings.

    Returns:
        The `providers` argument of the session; None for a plugin's.

    Raises:
        BackendUnavailableError: a plugin cannot be loaded or finds no device.
    """
    if provider.plugin is None:
        return [(provider.name, dict(settings)), *((name, {}) for name in provider.others)]
    options.add_provider_for_devices(plugin_devices(provider)[:1], dict(settings))
    return None


def plugin_devices(provider: Provider) -> list[Any]:
    """Return the devices (`OrtEpDevice`) that a plugin can run on; at least one.

    Raises:
        BackendUnavailableError: a plugin cannot be loaded or finds no device.
    """
    import onnxruntime

    register_plugin(provider)
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider.name]
    if not devices:
        raise BackendUnavailableError(
            f"{provider.name} finds no device on this machine that it can run on; use --device cpu"
        )
    return devices


def load_problem(device: OrtDevice) -> str | None:
    """Load a provider that is part of ONNX Runtime, and return why it does not load.

    ONNX Runtime lists the providers it was built with, whether or not their libraries (CUDA, cuDNN,
    TensorRT) are on the machine; only a session shows whether they load. The session here runs a
    graph of one operator.

    Returns:
        One clause for a person; None if the provider works.
    """
    import onnxruntime

    name = PROVIDERS[device].name
    messages = io.StringIO()
    with contextlib.redirect_stdout(messages), contextlib.suppress(Exception):
        # Finds CUDA's libraries where pip puts them. It reports failures on stdout.
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the reason is returned, and not printed as well
    try:
        session = onnxruntime.InferenceSession(_ONE_OPERATOR, options, providers=[name])
    except Exception as error:  # ONNX Runtime's classes are plain subclasses of Exception
        return f"{name} does not load ({str(error).strip().splitlines()[0]})"
    if name in session.get_providers():
        return None
    failures = [line for line in messages.getvalue().splitlines() if "Failed to load" in line]
    detail = f" ({failures[0]})" if failures else ""
    return f"{name} does not load{detail}; its libraries are missing or do not fit the driver"


# An ONNX model in protobuf's encoding: y = Abs(x), both float32 of shape (1,), opset 13.
_ONE_OPERATOR = (
    b'\x08\x08\x12\x00:6\n\x0b\n\x01x\x12\x01y"\x03Abs\x12\x05probeZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n'
    b"\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


def register_plugin(provider: Provider) -> None:
    """Load the library of a plugin into ONNX Runtime, once a process.

    Raises:
        BackendUnavailableError: its package is missing, or the library does not load.
    """
    import importlib

    import onnxruntime

    assert provider.plugin is not None
    with _registered:
        if provider.plugin in _plugins:
            return
        try:
            plugin = importlib.import_module(provider.plugin)
        except ImportError as error:
            raise BackendUnavailableError(
                f"{provider.name} is not installed; "
                f"pip install {provider.package} beside onnxruntime"
            ) from error
        try:
            onnxruntime.register_execution_provider_library(
                plugin.get_ep_name(), plugin.get_library_path()
            )
        except Exception as error:
            # ONNX Runtime's own classes, all of them plain subclasses of Exception.
            line = str(error).strip().splitlines()[0]
            raise BackendUnavailableError(
                f"{provider.name} does not load ({line}); check the device's driver, or use "
                "--device cpu"
            ) from error
        _plugins.add(provider.plugin)
