"""ONNX Runtime's GPU providers: their settings, and that no fallback to the CPU goes unnoticed."""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from r2rt.engines import providers
from r2rt.engines.onnx_runtime import OnnxRuntimeEngine
from r2rt.engines.providers import (
    INSTALL_CUDA,
    PROVIDERS,
    load_problem,
    provider_options,
    register_plugin,
    use,
)
from r2rt.engines.resident import DeviceArray
from r2rt.errors import BackendUnavailableError, BundleDamagedError, GpuError
from r2rt.model.bundle import Bundle, file_entry
from r2rt.model.contract import GROUNDER, TEXT_ENCODER, VIDEO_ENCODER, VIDEO_FINALIZER
from r2rt.model.manifest import MANIFEST_NAME, manifest_bytes
from tests.conftest import CHECKOUT

DEMO = CHECKOUT / "demo" / "random-tiny"
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(DEMO)


def test_the_cpu_has_no_settings(bundle: Bundle, tmp_path: Path) -> None:
    grounder = bundle.graphs[GROUNDER]
    assert provider_options(PROVIDERS["cpu"], grounder, tmp_path, context_length=77) == {}
    options = onnxruntime.SessionOptions()
    assert use(options, PROVIDERS["cpu"], {}) == [("CPUExecutionProvider", {})]


def test_engines_are_compiled_for_ranges_of_shapes_and_kept(bundle: Bundle, tmp_path: Path) -> None:
    spec, size = bundle.graphs[VIDEO_ENCODER], bundle.dims.image_size
    options = provider_options(PROVIDERS["tensorrt"], spec, tmp_path, context_length=77)
    assert options["trt_engine_cache_path"] == str(tmp_path)
    assert options["trt_profile_min_shapes"] == f"frames:1x{size}x{size}x3"
    assert options["trt_profile_opt_shapes"] == f"frames:32x{size}x{size}x3"
    grounder = provider_options(
        PROVIDERS["rtx"], bundle.graphs[GROUNDER], tmp_path, context_length=77
    )
    names = [shape.split(":")[0] for shape in grounder["nv_profile_max_shapes"].split(",")]
    assert names == [tensor.name for tensor in bundle.graphs[GROUNDER].inputs]
    assert all(isinstance(value, str) for value in (options | grounder).values())


def test_models_of_one_architecture_share_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT's provider names what it keeps after a graph's file and values, not its weights."""
    kept: list[str] = []

    class Compiling(Session):
        def __init__(self, path: str, options: Any, providers: Any) -> None:
            super().__init__(path, options, providers)
            kept.append(providers[0][1]["trt_engine_cache_path"])

        def get_provider_graph_assignment_info(self) -> list[Any]:
            return []

    def weights_of(seed: int) -> Bundle:
        folder = tmp_path / f"model-{seed}"
        shutil.copytree(DEMO, folder)
        model = onnx.load_model(folder / f"{GROUNDER}.onnx")
        largest = max(model.graph.initializer, key=lambda x: len(x.raw_data))
        values = np.random.default_rng(seed).permutation(onnx.numpy_helper.to_array(largest))
        largest.raw_data = values.tobytes()
        onnx.save_model(model, folder / f"{GROUNDER}.onnx")
        files = {**Bundle.open(DEMO).manifest.files}
        files[f"{GROUNDER}.onnx"] = file_entry(folder / f"{GROUNDER}.onnx")
        manifest = msgspec.structs.replace(Bundle.open(DEMO).manifest, files=files)
        (folder / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
        return Bundle.open(folder)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Compiling)
    for seed in (1, 2):
        OnnxRuntimeEngine(weights_of(seed), device="tensorrt", threads=1).open(GROUNDER)
    assert len(set(kept)) == 2
    assert all(Path(folder).is_dir() for folder in kept)


def test_a_gpu_without_memory_is_no_damaged_bundle(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0\nmore")

    engine = OnnxRuntimeEngine(bundle, device="cuda", threads=1)
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", full)
    with pytest.raises(GpuError, match=r"array of shape \(9, 4\) .*out of memory.*--device cpu"):
        engine.empty((9, 4))
    monkeypatch.setattr(onnxruntime, "InferenceSession", full)
    with pytest.raises(GpuError, match=r"cannot open it \(CUDA failure 2.*; free memory of the"):
        engine.open(GROUNDER)
    cpu = OnnxRuntimeEngine(bundle, threads=1)
    with pytest.raises(BundleDamagedError, match="fetch or export the bundle again"):
        cpu.open(GROUNDER)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_cache_that_cannot_be_written_stops_no_provider(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Any
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "file" / "cache"))
    settings: dict[str, str] = {}

    class Opened(Session):
        def __init__(self, path: str, options: Any, providers: Any) -> None:
            super().__init__(path, options, providers)
            settings.update(providers[0][1])

        def get_provider_graph_assignment_info(self) -> list[Any]:
            return []

    monkeypatch.setattr(onnxruntime, "InferenceSession", Opened)
    OnnxRuntimeEngine(bundle, device=device, threads=1).open(GROUNDER)
    assert settings
    assert not [key for key in settings if "cache" in key]


@pytest.mark.parametrize(("context_length", "usual"), [(77, 16), (64, 16), (8, 8)])
def test_queries_are_no_longer_than_the_graphs_take(
    bundle: Bundle, tmp_path: Path, context_length: int, usual: int
) -> None:
    """An encoder that reads 64 tokens has positions for 64: engines for more are refused."""
    options = provider_options(
        PROVIDERS["tensorrt"],
        bundle.graphs[TEXT_ENCODER],
        tmp_path,
        context_length=context_length,
    )
    for kind, queries, length in (("opt", 1, usual), ("max", 16, context_length)):
        shapes = options[f"trt_profile_{kind}_shapes"]
        assert shapes == f"token_ids:{queries}x{length},query_mask:{queries}x{length}"


def test_tensorrt_falls_back_to_cuda_alone() -> None:
    chosen = use(None, PROVIDERS["tensorrt"], {"a": "b"})
    assert chosen == [("TensorrtExecutionProvider", {"a": "b"}), ("CUDAExecutionProvider", {})]


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_is_not_there_is_an_error(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine(bundle, device="cuda", threads=1)
    assert (engine.name, engine.frame_batch) == ("onnxruntime-cuda", 32)
    with pytest.raises(BackendUnavailableError, match="fell back from CUDAExecutionProvider"):
        engine.open(VIDEO_ENCODER)


class Session:
    """A CPU session that says otherwise."""

    def __init__(self, path: str, options: Any, providers: Any = None) -> None:
        self._real = REAL(path, options, providers=["CPUExecutionProvider"])
        self._name = providers[0][0]

    def get_providers(self) -> list[str]:
        return [self._name, "CPUExecutionProvider"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


REAL = onnxruntime.InferenceSession


def test_a_provider_that_leaves_the_work_to_the_cpu_is_an_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    engine = OnnxRuntimeEngine(bundle, device="cuda", threads=1)
    with pytest.raises(
        BackendUnavailableError, match=r"CUDAExecutionProvider left \d+ operators to the CPU \("
    ):
        engine.open(VIDEO_ENCODER)


def test_quantised_operators_left_to_the_cpu_are_an_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Quantised(Session):
        def get_provider_graph_assignment_info(self) -> list[Any]:
            nodes = [SimpleNamespace(op_type="MatMulIntegerToFloat")]
            return [SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: nodes)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Quantised)
    with pytest.raises(BackendUnavailableError, match=r"to the CPU \(MatMulIntegerToFloat\)"):
        OnnxRuntimeEngine(bundle, device="cuda", threads=1).open(VIDEO_ENCODER)


def test_no_extra_installs_a_second_onnxruntime() -> None:
    """Builds of ONNX Runtime are one module: together, the files of one replace the other's."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    builds = ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
    for name, wanted in project["optional-dependencies"].items():
        assert not [x for x in wanted if x.startswith(builds)], name
    assert INSTALL_CUDA.startswith("pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[")


def test_the_graph_of_one_operator_is_what_onnx_reads() -> None:
    model = onnx.load_from_string(providers._ONE_OPERATOR)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Abs"]
    assert load_problem("cpu") is None


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_whose_libraries_are_missing_does_not_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def preload() -> None:
        print("Failed to load libcublasLt.so.13: no such file")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    problem = load_problem("cuda")
    assert problem is not None
    assert problem.startswith("CUDAExecutionProvider does not load (Failed to load libcublasLt.so")
    assert capsys.readouterr().out == ""


def test_a_provider_that_fails_to_open_is_one_clause(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA failure 35: driver too old\nfile cuda.cc")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    assert load_problem("cuda") == (
        "CUDAExecutionProvider does not load (CUDA failure 35: driver too old)"
    )


def test_nodes_that_compute_shapes_may_stay_on_the_cpu(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Placed(Session):
        def get_provider_graph_assignment_info(self) -> list[Any]:
            def part(provider: str, *kinds: str) -> Any:
                nodes = [SimpleNamespace(op_type=kind) for kind in kinds]
                return SimpleNamespace(ep_name=provider, get_nodes=lambda: nodes)

            return [part("CPUExecutionProvider", "Shape"), part(self._name, "MatMul", "Conv")]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Placed)
    OnnxRuntimeEngine(bundle, device="cuda", threads=1).open(VIDEO_ENCODER)


def test_values_stay_on_the_device(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bindings by address; the CPU's memory stands for the device's."""
    bound: list[str] = []

    class Binding:
        def __init__(self, session: Any) -> None:
            self._real = session.io_binding()

        def bind_input(self, name: str, kind: str, *rest: Any) -> None:
            bound.append(f"{name} on {kind}")
            self._real.bind_input(name, "cpu", *rest)

        def bind_output(self, name: str, kind: str = "cpu", *rest: Any) -> None:
            bound.append(f"{name} on {kind}")
            self._real.bind_output(name, "cpu", *rest)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    class Bound(Session):
        def get_provider_graph_assignment_info(self) -> list[Any]:
            return []

        def io_binding(self) -> Any:
            return Binding(self._real)

        def run_with_iobinding(self, binding: Any) -> None:
            self._real.run_with_iobinding(binding._real)

    real_value = onnxruntime.OrtValue.ortvalue_from_shape_and_type
    monkeypatch.setattr(onnxruntime, "InferenceSession", Bound)
    monkeypatch.setattr(
        onnxruntime.OrtValue,
        "ortvalue_from_shape_and_type",
        lambda shape, kind, *_: real_value(shape, kind),
    )
    dims, cpu = bundle.dims, OnnxRuntimeEngine(bundle, threads=1)
    engine = OnnxRuntimeEngine(bundle, device="cuda", threads=1)
    shape = (6, dims.layers, dims.patches, dims.token_width)
    tokens = np.random.default_rng(0).random(shape, dtype=np.float32)
    ends = np.ones((6, 2), np.float32)
    v = engine.empty((6, dims.layers, dims.patches, dims.width))
    assert isinstance(v, DeviceArray)
    for part in (slice(0, 4), slice(4, 6)):
        inputs = {"tokens": tokens[part], "endpoints": ends[part]}
        assert engine.run(VIDEO_FINALIZER, inputs, {"v": v[part]}) == {}
    assert bound == ["v on cuda"] * 2
    queries = {
        "q": np.ones((1, dims.layers, 5, dims.width), np.float32),
        "q_key": np.ones((1, dims.layers, 5, dims.width), np.float32),
        "pooled": np.ones((1, dims.width), np.float32),
        "query_mask": np.ones((1, 5), np.float32),
        "patch_bias": np.zeros(shape[:-1], np.float32),
    }
    got = engine.run(GROUNDER, {"v": v, **queries})
    assert bound[2] == "v on cuda"
    monkeypatch.undo()
    want_v = cpu.run(VIDEO_FINALIZER, {"tokens": tokens, "endpoints": ends})["v"]
    want = cpu.run(GROUNDER, {"v": want_v, **queries})
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-5)


def test_the_cpu_keeps_values_in_plain_arrays(bundle: Bundle) -> None:
    array = OnnxRuntimeEngine(bundle).empty((2, 3))
    assert isinstance(array, np.ndarray)
    assert array.shape == (2, 3)
    assert array.dtype == np.float32


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(PLUGIN)
    vars(module).update(get_ep_name=lambda: "rtx", get_library_path=lambda: "/lib/rtx.so")
    monkeypatch.setitem(sys.modules, PLUGIN, module)
    monkeypatch.setattr(providers, "_plugins", set())
    return module


def test_a_plugin_is_registered_once_and_its_device_chosen(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered, added = [], []
    monkeypatch.setattr(
        onnxruntime, "register_execution_provider_library", lambda *x: registered.append(x)
    )
    found = [SimpleNamespace(ep_name="CPUExecutionProvider")]
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: found)
    options = SimpleNamespace(add_provider_for_devices=lambda *x: added.append(x))
    with pytest.raises(BackendUnavailableError, match="finds no device on this machine"):
        use(options, PROVIDERS["rtx"], {})
    gpus = [SimpleNamespace(ep_name=PROVIDERS["rtx"].name) for _ in range(2)]
    found += gpus
    assert use(options, PROVIDERS["rtx"], {"x": "y"}) is None
    assert registered == [("rtx", "/lib/rtx.so")]
    assert added == [([gpus[0]], {"x": "y"})]


def test_a_plugin_that_does_not_load_is_reported_in_one_line(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: str) -> None:
        raise RuntimeError("libcuda.so.1: cannot open\nmore")

    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", fail)
    with pytest.raises(BackendUnavailableError, match=r"libcuda\.so\.1: cannot open\); check"):
        register_plugin(PROVIDERS["rtx"])


def test_a_plugin_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PLUGIN, None)
    monkeypatch.setattr(providers, "_plugins", set())
    with pytest.raises(
        BackendUnavailableError, match="pip install onnxruntime-ep-nv-tensorrt-rtx-cu13"
    ):
        register_plugin(PROVIDERS["rtx"])
