"""`auto` measures: the fastest right backend is chosen, whatever the others do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from r2rt.engines import choice, measuring
from r2rt.engines.base import Engine
from r2rt.engines.choice import choose, open_engine
from r2rt.engines.onnx_runtime import OnnxRuntimeEngine
from r2rt.engines.tensorrt.cuda import Gpu
from r2rt.engines.tensorrt.engine import TensorRTEngine
from r2rt.engines.tensorrt.plans import PrecisionName
from r2rt.model.bundle import Bundle
from r2rt.model.contract import VIDEO_ENCODER
from r2rt.model.manifest import FileEntry
from tests.conftest import CHECKOUT
from tests.r2rt.engines.tensorrt.fake_tensorrt import FakeRuntime, bundle_with_engines
from tests.r2rt.engines.tensorrt.stub_driver import Status, StubDriver

pytestmark = pytest.mark.slow

DEMO = CHECKOUT / "demo" / "random-tiny"

# Runs in every process that measures. Other hardware is the CPU here, with the faults of a driver:
# the plain CPU and directml are slowed, openvino is the fastest, webgpu computes something else,
# and coreml ends the process.
FAKES = """
import os, time
from r2rt.engines import onnx_runtime, providers
for device in ("openvino", "webgpu", "coreml", "directml"):
    providers.PROVIDERS[device] = providers.PROVIDERS["cpu"]
real = onnx_runtime.OnnxRuntimeEngine.run
def run(self, graph, inputs, outputs=None):
    if self._device == "coreml":
        os.abort()
    if self._device in ("cpu", "directml"):
        time.sleep({"cpu": 0.05, "directml": 0.2}[self._device])
    results = real(self, graph, inputs, outputs)
    if self._device == "webgpu":
        results = {name: array * 1.1 for name, array in results.items()}
    return results
onnx_runtime.OnnxRuntimeEngine.run = run
onnx_runtime.OnnxRuntimeEngine._check_provider = lambda *_: None
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAKES)
    paths = (str(tmp_path), str(CHECKOUT), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))


def usable(monkeypatch: pytest.MonkeyPatch, *devices: str) -> None:
    """Let these devices have no obstacle, and all others one."""
    ways = {
        (device, "onnxruntime"): None if device in devices else "absent"
        for device in ("cuda", "openvino", "webgpu", "coreml", "directml")
    }
    monkeypatch.setattr(choice, "_problems", lambda *_: ways)


def test_the_fastest_right_backend_is_chosen_and_remembered(
    fakes: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.open(DEMO)
    usable(monkeypatch, "openvino", "webgpu", "coreml", "directml")
    caplog.set_level("INFO", "r2rt")
    chosen = choose("auto", bundle, threads=1)
    assert chosen.device == "openvino"
    assert chosen.reason.startswith("measured now: ")
    assert "the CPU takes" in chosen.reason
    refused = "\n".join(record.getMessage() for record in caplog.records)
    assert "webgpu by onnxruntime is not used: differs from the CPU by 0." in refused
    assert "coreml by onnxruntime is not used: its process ended by signal 6" in refused

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(measuring, "measure", never)
    assert choose("auto", bundle, threads=1).reason.startswith("measured before: ")
    with pytest.raises(AssertionError, match="measured again"):
        choose("auto", bundle, threads=1, measure_again=True)
    with pytest.raises(AssertionError, match="measured again"):
        choose("auto", bundle, threads=2)


def test_the_cpu_is_never_replaced_by_something_slower_or_wrong(
    fakes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable(monkeypatch, "webgpu", "directml")
    engine, chosen = open_engine(Bundle.open(DEMO), "auto", threads=1)
    assert (chosen.device, engine.name) == ("cpu", "onnxruntime-cpu")
    assert "ms a frame, the fastest" in chosen.reason
    assert "webgpu differs from the CPU" in chosen.reason
    assert "directml took" in chosen.reason


def test_a_memory_that_cannot_be_read_is_measured_anew(
    fakes: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usable(monkeypatch, "directml")
    bundle = Bundle.open(DEMO)
    assert choose("auto", bundle, threads=1).device == "cpu"
    (kept,) = (tmp_path / "cache" / "devices").iterdir()
    kept.write_bytes(b'{"measurements": 3}')
    assert choose("auto", bundle, threads=1).reason.startswith("measured now")


def test_an_engine_that_was_built_anew_is_measured_anew(
    fakes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was refused, such as int8, may have been replaced by one that is right."""
    bundle = Bundle.open(DEMO)
    measured = []

    def measure(built: Bundle, *_: object, **__: object) -> list[measuring.Measurement]:
        measured.append(built)
        return [measuring.Measurement(device="cpu", backend="onnxruntime", frame_s=0.1)]

    monkeypatch.setattr(measuring, "measure", measure)
    for digest in ("a", "b", "b"):
        files = {
            **bundle.manifest.files,
            "engines/tensorrt-9.0-fp16/grounder.plan": FileEntry(size=1, sha256=digest * 64),
        }
        manifest = msgspec.structs.replace(bundle.manifest, files=files)
        built = Bundle(bundle.path, manifest)
        assert built.fingerprint == bundle.fingerprint
        measuring.fastest(built, [("tensorrt", "tensorrt")], threads=1)
    assert len(measured) == 2


class Rounding(OnnxRuntimeEngine):
    """Errs by 4 % in one output."""

    def run(self, graph: str, inputs: Any, outputs: Any = None) -> dict[str, Any]:
        results = super().run(graph, inputs, outputs)
        if graph == VIDEO_ENCODER:
            results["embedding"] *= np.float32(1.04)
        return results


def measure_here(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    cpu: type[OnnxRuntimeEngine] = OnnxRuntimeEngine,
    driver: type[StubDriver] = StubDriver,
) -> None:
    """Measure engines over this driver, that compute as `cpu` does, in this process."""

    def open_way(bundle: Bundle, _: object, backend: str, *, threads: int) -> Engine:
        if backend == "onnxruntime":
            return OnnxRuntimeEngine(bundle, threads=threads)
        stub = driver()
        runtime = FakeRuntime(stub, bundle, cpu=cpu(bundle, threads=threads))
        return TensorRTEngine(bundle, "rtx", gpu=Gpu(stub), runtime=runtime)

    def run_here(bundle: Bundle, *how: Any, again: bool) -> None:
        device, backend, threads, place = how
        measuring._work(str(bundle.path), device, backend, threads, str(place))

    monkeypatch.setattr(measuring, "open_way", open_way)
    monkeypatch.setattr(measuring, "_run", run_here)
    measuring.fastest(bundle, [("rtx", "tensorrt")], threads=1)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_may_err_as_much_as_when_it_was_built(
    precision: PrecisionName,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))
    bundle = bundle_with_engines(tmp_path / "bundle", precision=precision)
    measure_here(bundle, monkeypatch, cpu=Rounding)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    refusal = "rtx by tensorrt is not used: differs from the CPU by 0.04 (RMS; at most 0.02)"
    assert warned == ([refusal] if precision == "fp16" else [])


class NoReplay(StubDriver):
    """Enqueues nothing of a captured graph."""

    def cuGraphLaunch(self, graph: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return (Status.CUDA_SUCCESS,)


class NoCopies(StubDriver):
    """Leaves memory of the device as it was where it is copied to."""

    def cuMemcpyDtoDAsync(  # noqa: N802
        self, to: int, source: int, nbytes: int, stream: int
    ) -> tuple[Any, ...]:
        return (Status.CUDA_SUCCESS,)


@pytest.mark.parametrize("driver", [StubDriver, NoReplay, NoCopies])
def test_what_is_compared_was_replayed_and_stayed_on_the_device(
    driver: type[StubDriver],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))
    measure_here(bundle_with_engines(tmp_path / "bundle"), monkeypatch, driver=driver)
    refusals = [line for line in caplog.messages if "rtx by tensorrt is not used: differs" in line]
    assert len(refusals) == (driver is not StubDriver)


def test_where_nothing_else_is_usable_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(measuring, "measure", never)
    usable(monkeypatch)
    chosen = choose("auto", Bundle.open(DEMO))
    assert chosen.device == "cpu"
    assert "absent" in chosen.reason


def test_a_backend_that_hangs_is_given_up(fakes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_LIMIT_S", 0.01)
    found = measuring.measure(Bundle.open(DEMO), [("openvino", "onnxruntime")], threads=1)
    cpu, other = (one.problem for one in found)
    assert cpu == "did not end within 0 s"
    assert other == "not measured, since the CPU could not be"


def test_a_backend_that_takes_long_to_compile_gets_more_time_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))
    usable(monkeypatch, "openvino")

    def run(command: list[str], timeout: float, **_: Any) -> SimpleNamespace:
        _, device, *_, place = msgspec.json.decode(command[-1])
        if device == "openvino" and timeout < 600:
            raise subprocess.TimeoutExpired(command, timeout)
        frame_s = {"cpu": 0.2, "openvino": 0.1}[device]
        np.savez(place, frame_s=frame_s, tolerance=0.02, tokens=np.ones(3))
        return SimpleNamespace(returncode=0)

    fake = SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(measuring, "subprocess", fake)
    bundle = Bundle.open(DEMO)
    for warnings in (1, 0):  # it is not tried again by itself: it may hang
        chosen = choose("auto", bundle, threads=1)
        assert chosen.device == "cpu"
        hint = f"did not end within 180 s; `r2rt doctor --measure {DEMO}` waits 30 minutes for it"
        assert f"openvino {hint}" in chosen.reason
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert warned == [f"openvino by onnxruntime is not used: {hint}"] * warnings
        caplog.clear()
    assert choose("auto", bundle, threads=1, measure_again=True).device == "openvino"
    assert choose("auto", bundle, threads=1).device == "openvino"


def test_what_could_not_be_compared_is_not_remembered(
    fakes: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usable(monkeypatch, "openvino")
    monkeypatch.setattr(measuring, "_LIMIT_S", 0.01)
    chosen = choose("auto", Bundle.open(DEMO), threads=1)
    assert (chosen.device, chosen.reason) == ("cpu", "the CPU could not be measured")
    assert not (tmp_path / "cache" / "devices").exists()


def test_nothing_in_the_working_folder_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('taken from the working folder')")
    monkeypatch.chdir(tmp_path)
    (found,) = measuring.measure(Bundle.open(DEMO), [], threads=1)
    assert found.problem is None
