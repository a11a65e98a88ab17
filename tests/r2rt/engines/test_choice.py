"""Which backend runs: reasons for people, and nothing of a GPU imported without one."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import onnxruntime
import pytest

from r2rt.engines import DEVICES, Choice, Device, choice, gpu, measuring, open_engine, providers
from r2rt.engines.choice import choose, obstacles
from r2rt.engines.gpu import GpuInfo, find_gpu
from r2rt.engines.onnx_runtime import OnnxRuntimeEngine
from r2rt.engines.tensorrt import execution as tensorrt
from r2rt.errors import BackendUnavailableError, QueryError
from r2rt.model.bundle import Bundle
from r2rt.model.manifest import FileEntry
from tests.conftest import CHECKOUT
from tests.r2rt.engines.tensorrt.fake_tensorrt import VERSION, bundle_with_engines

DEMO = CHECKOUT / "demo" / "random-tiny"


@pytest.mark.parametrize("device", ["auto", "rtx"])
def test_auto_alone_lets_the_cpu_take_what_is_too_long_for_an_engine(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def open_way(_: Bundle, way: str, backend: str, **options: Any) -> str:
        opened.append((way, backend, options.get("beyond")))
        return way

    chosen = Choice(device="rtx", backend="tensorrt", reason="test")
    monkeypatch.setattr(choice, "choose", lambda *_, **__: chosen)
    monkeypatch.setattr(choice, "open_way", open_way)
    engine: Any = open_engine(Bundle.open(DEMO), device)[0]
    assert engine == "rtx"
    if device == "auto":
        assert opened == [("cpu", "onnxruntime", None), ("rtx", "tensorrt", "cpu")]
    else:
        assert opened == [("rtx", "tensorrt", None)]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> GpuInfo:
        raise BackendUnavailableError("no NVIDIA driver (libcuda.so.1) on this machine")

    monkeypatch.setattr(gpu, "find_gpu", find)


class Machine:
    """What a machine with a GPU is made to have."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.capability = (8, 9)
        self.providers = ["CPUExecutionProvider"]
        self.modules: set[str] = set()
        self.libraries: set[str] = set()
        self.provided_by_tensorrt: set[str] = set()
        self.load_problem: str | None = None
        monkeypatch.setattr(providers, "load_problem", lambda _: self.load_problem)
        monkeypatch.setattr(gpu, "find_gpu", self._find_gpu)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: self.providers)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in self.modules or None)
        monkeypatch.setattr(tensorrt, "import_runtime", self._import)
        monkeypatch.setattr(ctypes, "CDLL", self._load)

    def _find_gpu(self) -> GpuInfo:
        return GpuInfo(name="A GPU", capability=self.capability, cuda=(13, 0))

    def _import(self, flavour: str) -> Any:
        if flavour == "tensorrt":
            self.libraries |= self.provided_by_tensorrt
        if flavour not in self.modules:
            raise BackendUnavailableError(f"{flavour} cannot be imported")
        return SimpleNamespace(__version__=VERSION)

    def _load(self, name: str) -> None:
        if name not in self.libraries:
            raise OSError(name)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_devices() -> None:
    nvidia, others = ("cuda", "tensorrt", "rtx"), ("openvino", "webgpu", "coreml", "directml")
    assert ("auto", "cpu", *nvidia, *others) == DEVICES
    with pytest.raises(QueryError, match="expected one of auto, cpu, cuda, tensorrt, rtx, openv"):
        choose("gpu")  # type: ignore[arg-type]


def test_without_a_gpu_auto_is_the_cpu_and_says_why(no_gpu: None) -> None:
    chosen = choose()
    assert (chosen.device, chosen.backend) == ("cpu", "onnxruntime")
    assert chosen.reason == "no GPU: no NVIDIA driver (libcuda.so.1) on this machine"
    lacks = obstacles()
    assert chosen.reason == f"no GPU: {lacks['TensorRT']}"
    assert lacks["CUDAExecutionProvider"] == lacks["TensorRT"]
    assert "pip install onnxruntime-ep-openvino" in lacks["OpenVINOExecutionProvider"]
    assert "has no CoreMLExecutionProvider" in lacks["CoreMLExecutionProvider"]


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "rtx"])
def test_without_a_gpu_asking_for_one_is_an_error(no_gpu: None, device: Any) -> None:
    with pytest.raises(BackendUnavailableError, match=f"device {device} cannot be used: no NVIDIA"):
        choose(device)


def test_the_ways_are_in_order(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without measurements the first of a fixed order; see test_measuring for those."""
    monkeypatch.setattr(
        measuring,
        "fastest",
        lambda _, ways, **__: Choice(device=ways[0][0], backend=ways[0][1], reason="first"),
    )
    bundle = bundle_with_engines(tmp_path, capability="8.9")
    machine.providers.append("CUDAExecutionProvider")
    assert (choose("auto", bundle).device, choose("cuda").reason) == ("cuda", "asked for")
    machine.modules |= {"cuda", "cuda.bindings", "rtx"}
    fastest = choose("auto", bundle)
    assert (fastest.device, fastest.backend) == ("rtx", "tensorrt")
    # Without an engine for this GPU it is ONNX Runtime again.
    assert choose("auto", Bundle.open(DEMO)).device == "cuda"
    machine.capability = (8, 6)
    assert choose("auto", bundle).device == "cuda"


def test_an_engine_of_other_graphs_is_an_obstacle_of_its_own_device(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that came with the fp32 model that an int8 model was made of."""
    monkeypatch.setattr(
        measuring,
        "fastest",
        lambda _, ways, **__: Choice(device=ways[0][0], backend=ways[0][1], reason="first"),
    )
    bundle = bundle_with_engines(tmp_path, capability="8.9")
    graph = FileEntry(size=1, sha256="0" * 64)
    files = {**bundle.manifest.files, "grounder.onnx": graph}
    changed = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, files=files))
    machine.providers.append("CUDAExecutionProvider")
    machine.modules |= {"cuda", "cuda.bindings", "rtx"}
    assert choose("auto", changed).device == "cuda"
    with pytest.raises(
        BackendUnavailableError, match=r"built of another grounder\.onnx; build the"
    ):
        choose("rtx", changed)


def test_a_gpu_that_cannot_be_used_leaves_the_cpu_and_the_reason(machine: Machine) -> None:
    chosen = choose()
    assert chosen.device == "cpu"
    assert chosen.reason.startswith("the GPU cannot be used: CUDAExecutionProvider: this onnx")
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in chosen.reason


def test_without_cuda_libraries_auto_is_the_cpu_and_says_why(machine: Machine) -> None:
    machine.providers.append("CUDAExecutionProvider")
    machine.load_problem = "CUDAExecutionProvider does not load"
    chosen = choose()
    assert (chosen.device, chosen.backend) == ("cpu", "onnxruntime")
    assert "CUDAExecutionProvider does not load" in chosen.reason
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in chosen.reason
    with pytest.raises(BackendUnavailableError, match="CUDAExecutionProvider does not load"):
        choose("cuda")


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cuda", "tensorrt", "rtx"])
def test_onnx_runtime_never_takes_int8_bundles_to_a_gpu(
    machine: Machine, device: Any, tmp_path: Path
) -> None:
    machine.providers += ["CUDAExecutionProvider", "TensorrtExecutionProvider"]
    machine.libraries |= {"libnvinfer.so.10"}
    machine.modules |= {"onnxruntime_ep_nv_tensorrt_rtx"}
    int8 = Bundle.open(CHECKOUT / "r2rt" / "demo")
    assert int8.manifest.precision == "int8"
    chosen = choose("auto", int8)
    assert chosen.device == "cpu"
    assert "runs int8 products on the CPU; use the fp32 bundle" in chosen.reason
    with pytest.raises(BackendUnavailableError, match="int8 products on the CPU"):
        choose(device, int8)
    assert choose("auto", Bundle.open(DEMO)).backend == "onnxruntime"


def test_libraries_that_the_package_tensorrt_brings_are_found(machine: Machine) -> None:
    """pip puts them where the linker does not look; the package loads them by path."""
    machine.providers.append("TensorrtExecutionProvider")
    machine.provided_by_tensorrt = {"libnvinfer.so.10"}
    assert choose("tensorrt", Bundle.open(DEMO)).backend == "onnxruntime"


def test_what_is_missing_is_said_step_by_step(machine: Machine, tmp_path: Path) -> None:
    bundle = bundle_with_engines(tmp_path, capability="9.0")

    def lacking(device: Any) -> str:
        with pytest.raises(BackendUnavailableError) as caught:
            choose(device, bundle)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "cuda-bindings is missing; pip install 'r2rt[rtx]'" in lacking("rtx")
    machine.modules |= {"cuda", "cuda.bindings"}
    assert "TensorRT-RTX: rtx cannot be imported" in lacking("rtx")
    machine.modules |= {"rtx"}
    assert "serves compute capability 9.0, this GPU has 8.9" in lacking("rtx")
    assert "build one: python export/to_trt.py" in lacking("rtx")
    assert "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13" in lacking("rtx")
    machine.capability = (9, 0)
    assert "does not serve compute capability 9.0; use --device tensorrt or cuda" in lacking("rtx")
    assert "tensorrt cannot be imported" in lacking("tensorrt")
    assert "has no TensorrtExecutionProvider" in lacking("tensorrt")
    machine.providers.append("TensorrtExecutionProvider")
    assert "libnvinfer.so.10 is missing" in lacking("tensorrt")
    machine.libraries |= {"libnvinfer.so.10"}
    assert choose("tensorrt", bundle).backend == "onnxruntime"


def test_the_plugin_makes_rtx_usable_without_engines(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "plugin_devices", lambda _: ["a device"])
    machine.modules |= {"onnxruntime_ep_nv_tensorrt_rtx"}
    chosen = choose("rtx", Bundle.open(DEMO))
    assert (chosen.device, chosen.backend) == ("rtx", "onnxruntime")
    ways = obstacles(Bundle.open(DEMO))
    assert ways["NvTensorRTRTXExecutionProvider"] == ""
    assert all(problem for name, problem in ways.items() if not name.startswith("NvTensorRTRTX"))


def test_a_driver_without_a_gpu_is_reported() -> None:
    driver = SimpleNamespace(cuInit=lambda _: 100)
    with pytest.raises(BackendUnavailableError, match=r"finds no GPU \(error 100\); .*nvidia-smi"):
        find_gpu(lambda _: driver)


def test_the_driver_is_found_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        if name != "nvcuda.dll":
            raise OSError(name)
        return SimpleNamespace(cuInit=lambda _: 100)

    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(BackendUnavailableError, match=r"finds no GPU \(error 100\)"):
        find_gpu(load)


def test_the_engine_of_the_choice_is_opened(no_gpu: None) -> None:
    engine, chosen = open_engine(Bundle.open(DEMO), threads=1)
    assert isinstance(engine, OnnxRuntimeEngine)
    assert (engine.name, chosen.device) == ("onnxruntime-cpu", "cpu")


SCRIPT = """
import sys, numpy as np
from fractions import Fraction
from r2rt import Grounder
grounder = Grounder.load({bundle!r}, device={device!r})
frames = np.zeros((3, 32, 32, 3), np.uint8)
grounder.ground(grounder.encode_frames(frames, Fraction(1, 2)), "a dog")
parts = ("cuda", "engine", "execution", "launcher", "pipeline", "program")
gpu = ("cuda", "tensorrt", "tensorrt_rtx", "torch",
       *(f"r2rt.engines.tensorrt.{{name}}" for name in parts))
print([name for name in gpu if name in sys.modules])
"""


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_machine_without_a_gpu_imports_nothing_of_one(device: str) -> None:
    try:
        find_gpu()
    except BackendUnavailableError:
        pass
    else:
        if device == "auto":
            pytest.skip("this machine has a GPU, which auto uses")
    script = SCRIPT.format(bundle=str(DEMO), device=device)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_choosing_the_cpu_by_name_looks_for_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> GpuInfo:
        raise AssertionError("looked for a GPU")

    monkeypatch.setattr(gpu, "find_gpu", never)
    assert choose("cpu").device == "cpu"
